"""LoRA in the encoder: what is trained and what is not, and that it computes what it should."""

import pytest
import torch
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.models.adapter_settings import AdapterSize
from gmmxlnet.models.adapters import PartlyTrainedEmbedding, is_frozen, is_lora, name_in_adapted_model
from gmmxlnet.models.build import pretrained_model
from gmmxlnet.verification.fingerprint import _probe_batch as probe_batch

SIZE = {"n_layer": 12, "d_model": 8, "n_head": 2, "d_inner": 12, "initializer_range": 0.4, "dropout": 0.0}
MEMORIES = {
    "none": {"memory_type": "none"},
    "mems": {"memory_type": "mems", "mem_len": 30},
    "words": {"memory_type": "words", "mem_len": 30},
    "token": {"memory_type": "token", "memory_slots": 2},
    "differentiable": {"memory_type": "differentiable", "memory_slots": 3},
    "gmm": {"memory_type": "gmm", "num_memory_experts": 3, "memory_slots": 2, "memory_reconstruction_weight": 0.5},
}
PROJECTIONS = ("attention.qkv", "attention.position", "attention.output", "inner", "outer")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with an XLNet of twelve layers: layer 1 must not be taken for 10 or 11."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=40, **SIZE)).save_pretrained(folder)
    return str(folder)


def make(base, memory_type="gmm", adapter=AdapterSize(rank=2, dropout=0.0), seed=1):  # noqa: B008 (frozen)
    torch.manual_seed(seed)
    return pretrained_model(base, None, range(40), MEMORIES[memory_type], adapter=adapter)


def labelled(model):
    batch = probe_batch(model.config)
    B, S, L = batch["input_ids"].shape
    return batch | {"start_positions": torch.full((B, S), 3), "end_positions": torch.full((B, S), L - 1)}


@pytest.mark.parametrize("memory_type", MEMORIES)
def test_a_new_adapter_changes_nothing(base, memory_type):
    plain, adapted = (make(base, memory_type, adapter).eval() for adapter in (None, AdapterSize()))
    with torch.no_grad():
        expected, found = (model(**probe_batch(model.config)) for model in (plain, adapted))
    assert torch.equal(found.start_logits, expected.start_logits)
    assert torch.equal(found.end_logits, expected.end_logits)


def test_every_projection_of_every_layer_is_adapted_and_nothing_else(base):
    adapted = {name.partition(".lora_")[0] for name, _ in make(base).named_parameters() if is_lora(name)}
    assert adapted == {f"encoder.layers.{i}.{name}" for i in range(12) for name in PROJECTIONS}


@pytest.mark.parametrize("memory_type", MEMORIES)
def test_only_the_encoder_is_frozen(base, memory_type):
    """Its tensors are the base's, bit for bit, also after training; everything else moves."""
    model = make(base, memory_type).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # what starts at zero holds up other gradients
                parameter.add_(0.1 * torch.randn_like(parameter))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    model(**labelled(model)).loss.backward()
    optimizer.step()
    after = model.state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) == is_frozen(name), name
    plain = make(base, memory_type, adapter=None).state_dict()
    has_tokens = model.config.has_memory_tokens
    frozen = {name_in_adapted_model(name, has_memory_tokens=has_tokens): name for name in plain}
    for name in filter(is_frozen, after):
        expected = plain[frozen[name]]
        assert torch.equal(after[name], expected[:40] if name.endswith(".words") else expected), name


def test_alpha_scales_by_rank(base):
    """W·x + alpha / rank · B·A·x."""
    linear = make(base, adapter=AdapterSize(rank=2, alpha=6, dropout=0.0)).encoder.layers[0].inner
    a, b = linear.lora_A["default"].weight, linear.lora_B["default"].weight
    x = torch.randn(3, 8)
    with torch.no_grad():
        b.normal_()
        expected = linear.base_layer(x) + 3 * x @ a.T @ b.T
        torch.testing.assert_close(linear(x), expected)


def test_the_embedding_looks_up_what_an_ordinary_one_does():
    ordinary = torch.nn.Embedding(10, 4)
    partly = PartlyTrainedEmbedding(ordinary, 3)
    ids = torch.randint(0, 10, (4, 20))
    assert torch.equal(partly(ids), ordinary(ids))
    assert torch.equal(partly.weight, ordinary.weight)
    weights = torch.randn(4, 20, 4)
    (partly(ids) * weights).sum().backward()
    (ordinary(ids) * weights).sum().backward()
    torch.testing.assert_close(partly.memory_tokens.grad, ordinary.weight.grad[7:])
    assert partly.words.grad is None


def test_the_same_seed_draws_the_same_adapter(base):
    first, second, other = (make(base, seed=seed).state_dict() for seed in (1, 1, 2))
    name = "encoder.layers.0.inner.lora_A.default.weight"
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], other[name])
