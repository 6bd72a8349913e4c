"""`memory_type: mems`: XLNet's cache, as transformers has it where that is right, and the truths of the memory."""

import pytest
import torch
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import ConfigError
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.models.memories.mems import CacheState

EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 0, "atol": 1e-10}
SEGMENT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture(params=[5, 14, 60], ids=lambda mem_len: f"mem_len {mem_len}")
def model(tiny_model, request):
    """A cache of less than a segment, about one, and all segments."""
    return tiny_model("mems", mem_len=request.param)


def read(model, batch, **how):
    with torch.no_grad():
        return model(**batch, **how)


@pytest.mark.parametrize(("mem_len", "clamp_len"), [(4, -1), (9, -1), (13, 5), (40, -1)])
def test_same_logits_as_transformers_with_mems(mem_len, clamp_len):
    """Without padding, and all in one segment: there transformers, too, knows what is in its cache."""
    torch.manual_seed(0)
    size = {"d_model": 16, "n_head": 4, "n_layer": 3, "d_inner": 24, "dropout": 0.0, "initializer_range": 0.4}
    config = XLNetConfig(vocab_size=50, **size, mem_len=mem_len, clamp_len=clamp_len)
    theirs = XLNetForQuestionAnsweringSimple(config).double().eval()
    ours = GMMXLNetForQA(base_model=theirs, memory_type="mems").double().eval()
    ids_BSL = torch.randint(9, 50, (2, 4, 9))
    got, mems = read(ours, {"input_ids": ids_BSL}), None
    for s in range(4):
        alone = {"input_ids": ids_BSL[:, s], "token_type_ids": torch.zeros_like(ids_BSL[:, s])}
        expected = read(theirs, alone, mems=mems, use_mems=True)
        mems = expected.mems
        torch.testing.assert_close(got.start_logits[:, s], expected.start_logits, **CLOSE)
        torch.testing.assert_close(got.end_logits[:, s], expected.end_logits, **CLOSE)
    for i, mem_MBd in enumerate(mems):
        torch.testing.assert_close(got.memory_state.inputs_BMld[:, :, i], mem_MBd.transpose(0, 1), **CLOSE)


def test_with_an_unlimited_cache_one_layer_reads_segments_as_one_long_input(tiny_model, document, batch_of):
    """Segment ids and distances included: a single layer's cache is the embeddings themselves."""
    model = tiny_model("mems", mem_len=99, n_layer=1)
    segments = document(0, 3)
    batch = batch_of([segments], slots=0)
    output = read(model, batch)
    tokens_SL = batch["attention_mask"][0].bool()
    joined = {name: batch[name][0][tokens_SL][None] for name in SEGMENT_INPUTS}  # (1, all tokens)
    last = tokens_SL[2].sum()
    torch.testing.assert_close(output.start_logits[0, 2, -last:], read(model, joined).start_logits[0, -last:], **CLOSE)


def test_the_cache_holds_the_last_tokens_wherever_the_padding_was(model, documents, batch_of):
    batch = batch_of(documents, slots=0, length=20)
    state = read(model, batch).memory_state
    for b, tokens_SL in enumerate(batch["attention_mask"].bool()):
        types = batch["token_type_ids"][b][tokens_SL]
        held = min(len(types), model.config.mem_len)
        mask_M = state.attention_mask_BM[b]
        assert mask_M.tolist() == [0] * (len(mask_M) - held) + [1] * held
        assert state.token_type_ids_BM[b][mask_M.bool()].tolist() == types[-held:].tolist()
        words = model.get_input_embeddings()(batch["input_ids"][b][tokens_SL][-held:])
        torch.testing.assert_close(state.inputs_BMld[b, mask_M.bool(), 0], words, **EXACT)


def test_truth_1_the_cache_changes_the_logits_of_its_document_alone(model, documents, batch_of):
    batch = batch_of(documents, slots=0)
    first = {name: batch[name][:, 0] for name in SEGMENT_INPUTS}
    state = read(model, first).memory_state
    other = CacheState(state.inputs_BMld.clone(), state.attention_mask_BM, state.token_type_ids_BM)
    other.inputs_BMld[2] += torch.randn_like(other.inputs_BMld[2])
    one, two = (read(model, first, memory_state=x).start_logits for x in (state, other))
    change_B = (one - two).abs().amax(1)
    assert change_B[2] > 1e-3
    assert (change_B[[0, 1, 3]] == 0).all()


def test_truth_1_padding_in_the_cache_is_not_seen_and_segment_ids_are(model, documents, batch_of):
    batch = batch_of(documents, slots=0)
    first = {name: batch[name][:, 0] for name in SEGMENT_INPUTS}
    state = read(model, first).memory_state
    padding_BM = state.attention_mask_BM == 0
    inputs = state.inputs_BMld.masked_fill(padding_BM[..., None, None], 7.0)
    other = CacheState(inputs, state.attention_mask_BM, state.token_type_ids_BM.masked_fill(padding_BM, 1))
    before = read(model, first, memory_state=state).start_logits
    tokens = first["attention_mask"].bool()
    torch.testing.assert_close(read(model, first, memory_state=other).start_logits[tokens], before[tokens], **EXACT)
    alike = CacheState(state.inputs_BMld, state.attention_mask_BM, torch.zeros_like(state.token_type_ids_BM))
    assert not torch.allclose(read(model, first, memory_state=alike).start_logits, before, atol=1e-3)


def test_truth_2_no_gradient_enters_the_cache(model, batch_of):
    """A word that only one segment holds learns from that segment's loss alone."""
    marked = [([20 + s, *[11] * 4], [12, 13]) for s in range(3)]
    for segment in range(3):
        model.zero_grad(set_to_none=True)
        model(**batch_of([marked], slots=0)).start_logits[:, segment].square().sum().backward()
        word_grads = model.get_input_embeddings().weight.grad[20:23]
        assert word_grads.any(1).tolist() == [s == segment for s in range(3)]
    assert all(parameter.grad.any() for name, parameter in model.named_parameters() if name != "qa_head.bias")


@pytest.mark.parametrize("ablation", ["zeroed", "reset"])
def test_truth_8_without_its_cache_it_is_xlnet(model, tiny_model, documents, batch_of, ablation):
    batch = batch_of(documents, slots=0)
    without = tiny_model("none", vocab_size=model.config.vocab_size)
    without.load_state_dict(model.state_dict())
    tokens = batch["attention_mask"].bool()
    expected = read(without, batch).start_logits[tokens]
    torch.testing.assert_close(read(model, batch, memory_ablation=ablation).start_logits[tokens], expected, **CLOSE)
    assert not torch.allclose(read(model, batch).start_logits[tokens], expected, atol=1e-3)


def test_truth_8_shuffled_shows_the_donors_cache(model, documents, batch_of):
    batch, donor_of, state = batch_of(documents, slots=0), torch.tensor([3, 2, 0, 1]), None
    output = read(model, batch, memory_ablation="shuffled", memory_permutation=donor_of)
    for s in range(4):
        segment = {name: batch[name][:, s] for name in SEGMENT_INPUTS}
        handed = None if state is None else state.rows(donor_of)
        torch.testing.assert_close(
            output.start_logits[:, s], read(model, segment, memory_state=handed).start_logits, **CLOSE
        )
        state = read(model, segment, memory_state=state).memory_state


def test_save_and_load(model, documents, batch_of, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = GMMXLNetForQA.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert (loaded.config.memory_type, loaded.config.mem_len) == ("mems", model.config.mem_len)
    own = model.state_dict()
    assert own.keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.state_dict().items())
    batch = batch_of(documents, slots=0)
    torch.testing.assert_close(read(loaded, batch).start_logits, read(model, batch).start_logits, **CLOSE)


def test_without_a_length_it_is_refused():
    with pytest.raises(ConfigError, match="mem_len must be an integer >= 1 when memory_type is mems, not None"):
        GMMXLNetConfig(memory_type="mems", mem_len=None)
