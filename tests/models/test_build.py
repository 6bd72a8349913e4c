"""A model from an XLNet checkpoint: weights and vocabulary taken over, others refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import CheckpointError
from gmmxlnet.models.build import pretrained_model, scratch_model
from gmmxlnet.models.xlnet_weights import as_plain_xlnet

SIZE = {"n_layer": 2, "d_model": 16, "n_head": 2, "d_inner": 24, "initializer_range": 0.3, "dropout": 0.0}
GMM = {"memory_type": "gmm", "num_memory_experts": 3, "memory_slots": 2}


@pytest.fixture(scope="module")
def base(sample_tokenizer, tmp_path_factory):
    """A folder with a small XLNet for the sample's vocabulary, and the model itself."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("xlnet")
    model = XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=len(sample_tokenizer), **SIZE)).eval()
    model.save_pretrained(folder)
    return folder, model


def test_without_memory_the_checkpoints_logits_are_kept(base, sample_tokenizer):
    folder, theirs = base
    ours = pretrained_model(str(folder), None, sample_tokenizer, {"memory_type": "none"}).eval()
    batch = {"input_ids": torch.randint(9, len(sample_tokenizer), (2, 11)), "token_type_ids": torch.ones(2, 11).long()}
    batch["token_type_ids"][:, :6] = 0
    expected = theirs(**batch, attention_mask=torch.ones(2, 11))
    torch.testing.assert_close(ours(**batch).start_logits, expected.start_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours(**batch).end_logits, expected.end_logits, rtol=0, atol=1e-5)


def test_a_model_without_memory_is_a_base_model_again(base, sample_tokenizer, tmp_path):
    folder, theirs = base
    ours = pretrained_model(str(folder), None, sample_tokenizer, {"memory_type": "none"})
    plain = as_plain_xlnet(ours)
    for name, tensor in theirs.state_dict().items():
        if name != "transformer.mask_emb":
            assert torch.equal(plain.state_dict()[name], tensor), name
    plain.save_pretrained(tmp_path / "plain")
    again = pretrained_model(str(tmp_path / "plain"), None, sample_tokenizer, GMM)
    assert torch.equal(again.encoder.layers[1].attention.qkv.weight, ours.encoder.layers[1].attention.qkv.weight)
    assert torch.equal(again.qa_head.weight, ours.qa_head.weight)
    with pytest.raises(CheckpointError, match="a model with memory_type gmm is no plain XLNet"):
        as_plain_xlnet(again)


def test_memory_is_added_to_the_checkpoint(base, sample_tokenizer):
    folder, theirs = base
    ours = pretrained_model(str(folder), None, sample_tokenizer, GMM)
    words = theirs.get_input_embeddings().weight
    assert ours.config.vocab_size == len(words) + 4
    assert ours.config.num_memory_experts == 3
    assert torch.equal(ours.get_input_embeddings().weight[: len(words)], words)
    assert ours.config.n_layer == len(ours.encoder.layers) == 2
    assert ours.dtype == torch.float32


def test_what_the_checkpoint_lacks_depends_on_the_seed_alone(base, sample_tokenizer):
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(pretrained_model(str(base[0]), None, sample_tokenizer, GMM).expert_mixture.expert_0)
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_another_vocabulary_is_refused(sample_tokenizer, tmp_path):
    XLNetConfig(vocab_size=len(sample_tokenizer) + 1, **SIZE).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"has a vocabulary of \d+, the tokenizer one of \d+; set tokenizer to"):
        pretrained_model(str(tmp_path), None, sample_tokenizer, GMM)


def test_another_kind_of_model_is_refused(sample_tokenizer, tmp_path):
    BertConfig(vocab_size=len(sample_tokenizer)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is of type 'bert', expected 'xlnet'"):
        pretrained_model(str(tmp_path), None, sample_tokenizer, GMM)


@pytest.mark.parametrize("left", [[], ["config.json"]], ids=["empty folder", "no weights"])
def test_an_incomplete_folder_is_refused(base, sample_tokenizer, tmp_path, left):
    for name in left:
        (tmp_path / name).write_bytes((base[0] / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"cannot be read .*give a Hub id"):
        pretrained_model(str(tmp_path), None, sample_tokenizer, GMM)


def test_damaged_weights_are_refused(base, sample_tokenizer, tmp_path):
    (tmp_path / "config.json").write_bytes((base[0] / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((base[0] / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        pretrained_model(str(tmp_path), None, sample_tokenizer, GMM)


@pytest.mark.parametrize(
    ("left_out", "refused"), [("qa_outputs.", None), ("transformer.layer.1.ff", "lacks 6 of the encoder's tensors")]
)
def test_only_the_span_head_may_be_missing(base, sample_tokenizer, tmp_path, left_out, refused):
    """Checkpoints of the language model have none; anything else missing would be random."""
    (tmp_path / "config.json").write_bytes((base[0] / "config.json").read_bytes())
    tensors = load_file(base[0] / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(left_out)}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    if refused:
        with pytest.raises(CheckpointError, match=refused):
            pretrained_model(str(tmp_path), None, sample_tokenizer, GMM)
    else:
        pretrained_model(str(tmp_path), None, sample_tokenizer, GMM)


def test_from_scratch_the_tokenizer_gives_vocabulary_and_special_tokens(sample_tokenizer):
    torch.manual_seed(0)
    model = scratch_model(SIZE, sample_tokenizer, GMM)
    config = model.config
    assert config.read_token_id == len(sample_tokenizer)
    assert (config.pad_token_id, config.sep_token_id) == (sample_tokenizer.pad_token_id, sample_tokenizer.sep_token_id)
    assert scratch_model(SIZE, sample_tokenizer, {"memory_type": "none"}).config.vocab_size == len(sample_tokenizer)
