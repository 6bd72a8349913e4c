"""`memory_type: differentiable`: a bank per document that tokens read by content, and the truths of the memory."""

import copy

import pytest
import torch
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import ConfigError
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.models.memories.differentiable import BankState, MemoryBank, TokenPooling

EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 0, "atol": 1e-10}
SEGMENT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture(params=[(1, "mean", True), (4, "max", False), (2, "attention", True)], ids=str)
def model(tiny_model, request):
    """Every parameter is away from its initial value: the projection would hide the memory."""
    heads, pooling, usage_tracking = request.param
    return tiny_model("differentiable", memory_heads=heads, pooling_method=pooling, usage_tracking=usage_tracking)


def bank_of(num_slots=3, d=8, **other):
    torch.manual_seed(0)
    config = GMMXLNetConfig(memory_type="differentiable", memory_slots=num_slots, d_model=d, n_head=2, **other)
    bank = MemoryBank(config)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return bank


def read(model, batch, **how):
    with torch.no_grad():
        return model(**batch, **how)


def test_a_new_bank_leaves_the_encoder_as_it_is(documents, batch_of):
    torch.manual_seed(0)
    size = {"d_model": 16, "n_head": 4, "n_layer": 2, "d_inner": 24, "initializer_range": 0.4}
    base = XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=60, **size)).double().eval()
    plain = GMMXLNetForQA(base_model=base, use_gmm_memory=False).double().eval()
    model = GMMXLNetForQA(base_model=base, memory_type="differentiable", memory_slots=5, memory_heads=2).double().eval()
    assert model.config.vocab_size == 60
    words = base.get_input_embeddings().weight.norm(dim=-1).mean()
    torch.testing.assert_close(model.memory_bank.norm[0].double(), words, rtol=1e-6, atol=0)
    batch = batch_of(documents, slots=0)
    tokens = batch["attention_mask"].bool()
    torch.testing.assert_close(
        read(model, batch).start_logits[tokens], read(plain, batch).start_logits[tokens], **CLOSE
    )


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_reading_is_a_weighted_sum_of_values_by_head(heads):
    bank = bank_of(memory_heads=heads, memory_sharpness=5.0)
    embedding_BLd, slots_BNd = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    got, h = bank.read(embedding_BLd, slots_BNd), 8 // heads
    for b in range(2):
        for token in range(4):
            query, values = bank.query(embedding_BLd[b, token]), bank.as_embeddings(slots_BNd[b])
            parts = []
            for part in (slice(i * h, (i + 1) * h) for i in range(heads)):
                cosine_N = torch.cosine_similarity(query[None, part], slots_BNd[b][:, part])
                parts.append((5.0 * cosine_N).softmax(0) @ values[:, part])
            expected = bank.projection.weight @ torch.cat(parts)
            torch.testing.assert_close(got[b, token], expected, rtol=1e-4, atol=1e-5)


def test_sharper_addressing_reads_fewer_slots():
    queries, slots = torch.randn(1, 50, 8), torch.randn(1, 3, 8)
    largest = [
        bank_of(memory_sharpness=beta)._scores(queries, slots).softmax(-1).amax(-1).mean() for beta in (1, 8, 64)
    ]
    assert largest[0] < largest[1] < largest[2]
    assert largest[2] > 0.95


def test_writing_erases_and_adds():
    """One head, as in the paper: M_i <- M_i (1 - w_i e) + w_i a."""
    bank = bank_of()
    state = BankState(torch.randn(2, 3, 8), torch.rand(2, 1, 3))
    hidden_BLd, mask_BL = torch.randn(2, 4, 8), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    new = bank.write(hidden_BLd, mask_BL, state)
    for b, pooled in enumerate((hidden_BLd[0, 1:].mean(0), hidden_BLd[1].mean(0))):
        cosine_N = torch.cosine_similarity(bank.key(pooled)[None], state.slots_BNd[b])
        w_N1 = (8.0 * (cosine_N - state.usage_BHN[b, 0])).softmax(0)[:, None]
        erase, add = bank.erase(pooled).sigmoid(), bank.add(pooled).tanh()
        expected = state.slots_BNd[b] * (1 - w_N1 * erase) + w_N1 * add
        torch.testing.assert_close(new.slots_BNd[b], expected, rtol=1e-4, atol=1e-5)
        usage_N = state.usage_BHN[b, 0]
        torch.testing.assert_close(new.usage_BHN[b, 0], usage_N + (1 - usage_N) * w_N1[:, 0])


def test_usage_steers_writes_to_slots_that_hold_nothing():
    """The same segment over and over: tracked, it is written to one slot after another."""

    def chosen(usage_tracking):
        bank = bank_of(usage_tracking=usage_tracking, memory_sharpness=50.0)
        hidden_BLd, mask_BL, state, slots = torch.randn(1, 4, 8), torch.ones(1, 4), bank(1), []
        for _ in range(3):
            new = bank.write(hidden_BLd, mask_BL, BankState(bank(1).slots_BNd, state.usage_BHN))
            slots.append(int((new.slots_BNd - bank(1).slots_BNd).abs().sum(-1).argmax()))
            state = new
        return slots

    assert sorted(chosen(True)) == [0, 1, 2]
    assert len(set(chosen(False))) == 1


@pytest.mark.parametrize("method", ["mean", "max", "attention"])
def test_pooling_leaves_padding_out(method):
    torch.manual_seed(0)
    pooling, hidden_BLd = TokenPooling(method, 8), torch.randn(1, 5, 8)
    mask_BL = torch.tensor([[0, 0, 1, 1, 1]])
    pooled = pooling(hidden_BLd, mask_BL)
    torch.testing.assert_close(pooled, pooling(hidden_BLd[:, 2:], mask_BL[:, 2:]))
    assert not torch.allclose(pooled, pooling(hidden_BLd, torch.ones(1, 5)))


def test_slots_have_no_order(model, documents, batch_of):
    batch, permuted = batch_of(documents, slots=0), copy.deepcopy(model)
    with torch.no_grad():
        permuted.memory_bank.initial_slots.copy_(model.memory_bank.initial_slots[[2, 0, 1]])
    torch.testing.assert_close(read(permuted, batch).start_logits, read(model, batch).start_logits, **CLOSE)


def test_truth_1_the_bank_changes_the_logits_of_its_document_alone(model, documents, batch_of):
    batch = batch_of(documents, slots=0)
    start = model.memory_bank(4)
    other = BankState(start.slots_BNd.clone(), start.usage_BHN)
    other.slots_BNd[2] += torch.randn_like(other.slots_BNd[2])
    one, two = (read(model, batch, memory_state=state).start_logits for state in (start, other))
    change_B = (one - two).abs().amax((1, 2))
    assert change_B[2] > 1e-3
    assert (change_B[[0, 1, 3]] == 0).all()


def test_truth_1_what_an_earlier_segment_says_changes_a_later_ones_logits(model, documents, batch_of):
    before = read(model, batch_of(documents, slots=0)).start_logits
    context, question = documents[3][0]
    changed = [*documents[:3], [([context[0] - 1, *context[1:]], question), *documents[3][1:]]]
    change_BS = (before - read(model, batch_of(changed, slots=0)).start_logits).abs().amax(2)
    assert (change_BS[3] > 1e-6).all()
    assert (change_BS[:3] == 0).all()


def test_truth_2_every_parameter_learns_from_the_next_segment(model, document, batch_of):
    output = model(**batch_of([document(0, 2), document(1, 2)], slots=0))
    (output.start_logits[:, 1].square().sum() + output.end_logits[:, 1].sin().sum()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if name.startswith("memory_bank.")}
    parts = {name.split(".")[1] for name in gradients}
    assert {"initial_slots", "query", "value", "norm", "projection", "key", "erase", "add"} <= parts
    assert {name for name, grad in gradients.items() if grad is None or not grad.any()} == set()


@pytest.mark.parametrize(("limit", "segment", "first"), [(None, 3, 0), (1, 1, 1), (1, 3, 3), (2, 3, 2), (3, 2, 0)])
def test_truth_2_no_gradient_crosses_where_it_is_cut(tiny_model, batch_of, limit, segment, first):
    model = tiny_model("differentiable", memory_heads=2, bptt_segments=limit)
    marked = [([20 + s, *[11] * 4], [12, 13]) for s in range(4)]
    model(**batch_of([marked], slots=0)).start_logits[:, segment].square().sum().backward()
    word_grads = model.get_input_embeddings().weight.grad[20:24]
    assert word_grads.any(1).tolist() == [first <= s <= segment for s in range(4)]
    for parameter, reached in (
        (model.memory_bank.add.weight, first < segment),
        (model.memory_bank.initial_slots, first == 0),
    ):
        assert (parameter.grad is not None and bool(parameter.grad.any())) == reached


def test_truth_8_ablations_take_away_what_they_name(model, documents, batch_of, logits_of):
    batch = batch_of(documents, slots=0)
    mute = copy.deepcopy(model)
    with torch.no_grad():
        mute.memory_bank.projection.weight.zero_()
    zeroed = read(model, batch, memory_ablation="zeroed").start_logits
    torch.testing.assert_close(zeroed, read(mute, batch).start_logits, **CLOSE)
    assert not torch.allclose(zeroed, read(model, batch).start_logits, atol=1e-3)
    reset = read(model, batch, memory_ablation="reset")
    for b, one in enumerate(documents):
        for s, segment in enumerate(one):
            alone = batch_of([[segment]], slots=0)
            torch.testing.assert_close(
                logits_of(reset, batch, b, s), logits_of(read(model, alone), alone, 0, 0), **CLOSE
            )
    donor_of, state = torch.tensor([3, 2, 0, 1]), model.memory_bank(4)
    shuffled = read(model, batch, memory_ablation="shuffled", memory_permutation=donor_of).start_logits
    for s in range(4):
        segment = {name: batch[name][:, s] for name in SEGMENT_INPUTS}
        handed = read(model, segment, memory_state=state.rows(donor_of))
        torch.testing.assert_close(shuffled[:, s], handed.start_logits, **CLOSE)
        state = read(model, segment, memory_state=state).memory_state


def test_reconstruction_teaches_the_bank_its_segments_words(tiny_model, document, batch_of):
    """Nothing but that loss is trained: what the bank says comes closer to what it has just read."""
    torch.manual_seed(0)
    model = tiny_model("differentiable", memory_reconstruction_weight=1.0).train()
    labels = {"labels": [None] * 4}
    batch = batch_of([document(seed, 3) for seed in range(4)], slots=0, **labels)
    optimizer = torch.optim.Adam(model.memory_bank.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(model(**batch).loss_parts["reconstruction"]))
    assert losses[-1] < 0.8 * losses[0]


def test_save_and_load(model, documents, batch_of, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = GMMXLNetForQA.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert loaded.config.to_dict().items() >= {"memory_type": "differentiable", "memory_slots": 3}.items()
    own = model.state_dict()
    assert own.keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.state_dict().items())
    batch = batch_of(documents, slots=0)
    torch.testing.assert_close(read(loaded, batch).start_logits, read(model, batch).start_logits, **CLOSE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_slots": 0}, "memory_num_tokens must be > 0 and at most 32 when memory_type is differentiable, not 0"),
        ({"memory_heads": 5}, "memory_heads must divide d_model, which is 16, not 5"),
        ({"memory_heads": 0}, "memory_heads must be an integer in .1, "),
        ({"memory_sharpness": 0.0}, "memory_sharpness must be > 0 and finite, not 0.0"),
        ({"memory_sharpness": float("nan")}, "memory_sharpness must be > 0 and finite, not nan"),
    ],
)
def test_impossible_banks_are_refused(settings, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        GMMXLNetConfig(**{"memory_type": "differentiable", "memory_slots": 2, "d_model": 16, "n_head": 2, **settings})
