"""The model as users meet it: built around an encoder, saved, loaded, asked what it did; and its loss by hand."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import CheckpointError, ConfigError
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA

SETTINGS = [
    {"memory_type": "none"},
    {"memory_type": "token"},
    {"memory_type": "gmm", "k": 3},
    {"memory_type": "gmm", "k": 2, "routing_mode": "read-based", "pooling_method": "attention"},
]
BATCH_LABELS = [(1, 0, 1), None, (0, 2, 2)]


def xlnet(**other):
    torch.manual_seed(1)
    size = {"vocab_size": 60, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "initializer_range": 0.3}
    return XLNetForQuestionAnsweringSimple(XLNetConfig(**{**size, **other})).eval()


@pytest.fixture
def batch(document, batch_of):
    """Three documents of 2, 1 and 3 segments; the second has no answer."""
    return batch_of([document(0, 2), document(1, 1), document(2, 3)], labels=BATCH_LABELS)


@pytest.fixture
def without_memory(document, batch_of):
    return batch_of([document(0, 2), document(1, 1), document(2, 3)], labels=BATCH_LABELS, slots=0)


# Built around an encoder, as the guide does


def test_the_guides_constructor():
    base = xlnet()
    model = GMMXLNetForQA(
        base_model=base,
        num_experts=3,
        memory_slots=5,
        routing_mode="read-based",
        routing_temperature=0.5,
        pooling_method="max",
        use_gmm_memory=True,
    )
    config = model.config
    assert (config.memory_type, config.num_memory_experts, config.num_experts, config.memory_slots) == ("gmm", 3, 3, 5)
    assert (config.routing_mode, config.routing_temperature, config.pooling_method) == ("read-based", 0.5, "max")
    assert [tuple(expert.shape) for expert in model.memory_mixture.expert_memories] == [(5, 16)] * 3
    words = model.get_input_embeddings().weight
    base_words = base.get_input_embeddings().weight
    assert config.vocab_size == len(words) == 60 + 2 * 5
    assert torch.equal(words[:60], base_words)
    assert len(words[60:].unique(dim=0)) == 10
    assert torch.equal(model.qa_head.weight, base.qa_outputs.weight)
    assert model.memory_reader.norm.item() == pytest.approx(base_words.norm(dim=-1).mean().item())


def test_the_guides_defaults_and_other_kinds_of_memory():
    assert GMMXLNetForQA(base_model=xlnet()).config.num_memory_experts == 4
    assert GMMXLNetForQA(base_model=xlnet()).config.memory_slots == 16
    assert GMMXLNetForQA(base_model=xlnet(), num_experts=1).config.memory_type == "token"
    none = GMMXLNetForQA(base_model=xlnet(), use_gmm_memory=False, num_experts=4)
    assert (none.config.memory_type, none.config.vocab_size) == ("none", 60)


def test_a_model_needs_a_config_or_an_encoder_and_one_that_fits():
    for both in ({}, {"config": GMMXLNetConfig(d_model=16, n_head=2), "base_model": xlnet()}):
        with pytest.raises(ConfigError, match="either a config or a base_model"):
            GMMXLNetForQA(**both)
    with pytest.raises(CheckpointError, match="attn_type 'uni' with bi_data False is not supported"):
        GMMXLNetForQA(base_model=xlnet(attn_type="uni"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 0}, r"num_memory_experts must be an integer in \[2, 8\], not 0"),
        ({"num_experts": 9}, r"num_memory_experts must be an integer in \[2, 8\], not 9"),
        ({"num_experts": 2.5}, r"num_memory_experts must be an integer in \[2, 8\], not 2.5"),
        ({"num_experts": True}, r"num_memory_experts must be an integer in \[2, 8\], not True"),
        ({"memory_slots": 0}, "memory_num_tokens must be > 0 and at most 32 when memory_type is gmm, not 0"),
        ({"memory_slots": 2.5}, r"memory_slots must be an integer in \[1, 32\], not 2.5"),
        ({"routing_temperature": 0}, "routing_temperature must be > 0"),
        ({"load_balance_weight": float("nan")}, "load_balance_weight must be >= 0 and finite, not nan"),
        ({"expert_init_strategies": ["learned"]}, "one strategy for each of the 4 experts, not 1"),
        ({"use_gmm_memory": "yes"}, "use_gmm_memory must be true or false, not 'yes'"),
        ({"routing_temprature": 1.0}, "has no argument 'routing_temprature'; 'routing_temperature' is near"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        GMMXLNetForQA(base_model=xlnet(), **change)


@pytest.mark.parametrize("memory_type", ["none", "token"])
def test_what_a_model_does_not_have_is_named(tiny_model, batch, without_memory, memory_type):
    model = tiny_model(memory_type)
    output = model(**(without_memory if memory_type == "none" else batch))
    assert output.routing_probs is output.routing_logits is model.last_routing_probs is None
    assert (output.memory_state is None) == (memory_type == "none")
    if memory_type == "none":
        with pytest.raises(AttributeError, match=r"Model does not have memory_mixture attribute.*use_gmm_memory=True"):
            _ = model.memory_mixture


# Saved and loaded


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_saved_and_loaded_it_is_the_same_bit_for_bit(tiny_model, batch, without_memory, settings, tmp_path):
    model = tiny_model(**settings).float()
    model.save_pretrained(tmp_path)
    files = ["checkpoint.json", "config.json", "model.safetensors"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == files
    torch.manual_seed(99)
    inputs = without_memory if settings["memory_type"] == "none" else batch
    expected = model(**inputs)
    for cls in (GMMXLNetForQA, AutoModelForQuestionAnswering):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is GMMXLNetForQA
        assert not loaded.training
        own, other = model.state_dict(), loaded.state_dict()
        assert list(own) == list(other)
        assert all(torch.equal(own[name], other[name]) for name in own)
        output = loaded(**inputs)
        assert torch.equal(output.start_logits, expected.start_logits)
        assert torch.equal(output.loss, expected.loss)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_tensors_have_the_names_of_the_format(tiny_model, settings, tmp_path):
    tiny_model(**settings).save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    k = {"none": 0, "token": 1}.get(settings["memory_type"], settings.get("k"))
    expected = {f"expert_mixture.expert_{j}" for j in range(k)}
    for kind in ("gate", "update"):
        expected |= {f"expert_updater.{kind}_networks.{j}.{part}" for j in range(k) for part in ("weight", "bias")}
    if k > 1:
        expected |= {"routing_network.W_gate.weight", "routing_network.W_gate.bias"}
    assert expected <= names
    prefixes = {"encoder", "qa_head"}
    prefixes |= {name.split(".")[0] for name in expected} | ({"memory_reader"} if k else set())
    assert {name.split(".")[0] for name in names} == prefixes
    assert any("read_gating_network" in name for name in names) == ("routing_mode" in settings)


def test_two_models_of_one_seed_are_the_same(tiny_model):
    one, two, other = tiny_model(), tiny_model(), tiny_model(seed=1)
    assert all(torch.equal(one.state_dict()[name], two.state_dict()[name]) for name in one.state_dict())
    assert not torch.equal(one.qa_head.weight, other.qa_head.weight)


# What it says about routing


def test_last_routing_probs_are_those_of_the_last_call(tiny_model, batch):
    model = tiny_model("gmm", 3)
    assert model.last_routing_probs is None
    probs = model(**batch).routing_probs
    assert torch.equal(model.last_routing_probs, probs)
    assert not model.last_routing_probs.requires_grad
    assert probs.shape == (3, 3, 3)
    assert probs.dtype == model.dtype
    has_segment = torch.arange(3) < batch["num_segments"][:, None]
    torch.testing.assert_close(probs.sum(-1), has_segment.to(probs.dtype), rtol=0, atol=1e-6)


def test_one_segment_has_no_dimension_for_segments(tiny_model, batch):
    model = tiny_model("gmm", 3)
    whole = model(**batch)
    one = model(**{name: batch[name][:, 0] for name in ("input_ids", "attention_mask", "token_type_ids")})
    assert one.start_logits.shape == batch["input_ids"][:, 0].shape
    torch.testing.assert_close(one.end_logits, whole.end_logits[:, 0])
    torch.testing.assert_close(one.routing_probs, whole.routing_probs[:, 0])


@pytest.mark.parametrize("how", [{"memory_ablation": "none"}, {"memory_ablation": "shuffled"}], ids=str)
def test_unknown_ablations_are_refused(tiny_model, batch, how):
    with pytest.raises(ConfigError, match="memory_ablation must be one of normal, zeroed, shuffled, reset"):
        tiny_model()(**batch, **how)


def test_mixed_precision_keeps_routing_in_float32(tiny_model, batch):
    model = tiny_model("gmm", 3, routing_mode="read-based", memory_reconstruction_weight=0.3).float()
    expected = model(**batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch)
    assert output.routing_probs.dtype == torch.float32
    assert output.loss.dtype == torch.float32
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    torch.testing.assert_close(output.loss, expected.loss, rtol=0.2, atol=0)


# Its loss


def span_loss_by_hand(output, batch, b, s, slots):
    """Cross-entropy of both boundaries of one segment, over context and <cls>; and the logits chosen from."""
    types, mask = batch["token_type_ids"][b, s], batch["attention_mask"][b, s]
    L = len(types)
    context = [p for p in range(L) if mask[p] and types[p] == 0][: -slots - 1]
    candidates = [*context, L - 1]
    parts = []
    for logits, name in ((output.start_logits, "start_positions"), (output.end_logits, "end_positions")):
        chosen = logits[b, s, candidates].log_softmax(-1)
        parts.append(-chosen[candidates.index(batch[name][b, s].item())])
    return sum(parts) / 2


@pytest.mark.parametrize("memory_type", ["none", "token", "gmm"])
def test_span_loss_is_the_mean_over_all_segments(tiny_model, batch, without_memory, memory_type):
    inputs, slots = (without_memory, 0) if memory_type == "none" else (batch, 3)
    model = tiny_model(memory_type)
    output = model(**inputs)
    segments = [(b, s) for b, count in enumerate(inputs["num_segments"].tolist()) for s in range(count)]
    expected = torch.stack([span_loss_by_hand(output, inputs, b, s, slots) for b, s in segments]).mean()
    torch.testing.assert_close(output.loss_parts["span"].double(), expected, rtol=1e-5, atol=0)


def test_loss_is_the_weighted_sum_of_its_parts(tiny_model, batch):
    weights = {
        "load_balance_weight": 0.5,
        "entropy_regularization_weight": 0.25,
        "memory_reconstruction_weight": 2.0,
        "memory_association_weight": 3.0,
    }
    output = tiny_model(**weights)(**batch)
    parts = output.loss_parts
    assert list(parts) == ["span", "load_balance", "entropy", "reconstruction", "association"]
    expected = parts["span"] + 0.5 * parts["load_balance"] - 0.25 * parts["entropy"]
    expected = expected + 2 * parts["reconstruction"] + 3 * parts["association"]
    torch.testing.assert_close(output.loss, expected)
    probs = output.routing_probs[output.routing_probs.any(-1)]
    assert parts["entropy"].item() == pytest.approx(torch.distributions.Categorical(probs).entropy().mean().item())
    expected = 0.0
    for probs_Bk in output.routing_probs.unbind(1):  # one step of the recurrence
        active = probs_Bk[probs_Bk.any(-1)]
        share = torch.bincount(active.argmax(-1), minlength=4) / len(active)
        expected += 4 * (share * active.mean(0)).sum().item() * len(active) / len(probs)
    assert parts["load_balance"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("span_loss", ["segment", "document"])
def test_loss_does_not_depend_on_padding_or_order(tiny_model, document, batch_of, span_loss):
    documents, labels = [document(seed, n) for seed, n in ((0, 2), (1, 1), (2, 3))], BATCH_LABELS
    model = tiny_model(span_loss=span_loss, memory_reconstruction_weight=0.3)
    expected = model(**batch_of(documents, labels=labels)).loss
    padded = batch_of(documents, labels=labels, length=40, num_segments=6)
    turned = batch_of(documents[::-1], labels=labels[::-1])
    for other in (padded, turned):
        torch.testing.assert_close(model(**other).loss, expected, rtol=1e-5, atol=0)


def test_document_loss_of_single_segments_is_the_segment_loss(tiny_model, document, batch_of):
    batch = batch_of([document(0, 1), document(1, 1)], labels=[(0, 0, 1), None])
    losses = [tiny_model(span_loss=span_loss)(**batch).loss.item() for span_loss in ("segment", "document")]
    assert losses[0] == pytest.approx(losses[1])


def test_reconstruction_is_left_out_where_it_weighs_nothing(tiny_model, batch):
    assert list(tiny_model()(**batch).loss_parts) == ["span", "load_balance", "entropy"]
    assert list(tiny_model("token")(**batch).loss_parts) == ["span"]


def test_config_json_says_what_the_model_is(tiny_model, tmp_path):
    tiny_model("gmm", 3).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GMMXLNetForQA"]
    assert (config["num_experts"], config["vocab_size"]) == (3, 66)
