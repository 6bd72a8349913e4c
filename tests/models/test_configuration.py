"""`GMMXLNetConfig`: what it refuses, and what `config.json` says."""

import json

import pytest
from transformers import AutoConfig

from gmmxlnet.errors import ConfigError
from gmmxlnet.models import GMMXLNetConfig

GMM = {"memory_type": "gmm", "num_memory_experts": 4, "memory_slots": 16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_type": "lstm"}, "memory_type must be none, mems, words, token, differentiable or gmm, not 'lstm'"),
        ({"num_memory_experts": 1}, r"num_memory_experts must be an integer in \[2, 8\], not 1"),
        ({"num_memory_experts": 9}, r"num_memory_experts must be an integer in \[2, 8\], not 9"),
        ({"memory_slots": 0}, "memory_num_tokens must be > 0 and at most 32 when memory_type is gmm, not 0"),
        ({"memory_slots": 33}, "memory_num_tokens must be > 0 and at most 32 .* not 33"),
        ({"memory_type": "token", "memory_slots": 0}, "memory_num_tokens must be > 0 .* memory_type is token"),
        ({"routing_mode": "both"}, "routing_mode must be write-based or read-based, not 'both'"),
        ({"routing_temperature": 0}, "routing_temperature must be > 0"),
        ({"routing_temperature": -1.0}, "routing_temperature must be > 0"),
        ({"routing_temperature": float("nan")}, "routing_temperature must be > 0 and finite, not nan"),
        ({"routing_temperature": float("inf")}, "routing_temperature must be > 0 and finite, not inf"),
        ({"pooling_method": "sum"}, "pooling_method must be mean, max or attention, not 'sum'"),
        ({"span_loss": "token"}, "span_loss must be segment or document, not 'token'"),
        ({"load_balance_weight": -0.1}, "load_balance_weight must be >= 0 and finite, not -0.1"),
        ({"entropy_regularization_weight": float("nan")}, "entropy_regularization_weight must be >= 0 and finite"),
        ({"memory_reconstruction_weight": float("inf")}, "memory_reconstruction_weight must be >= 0 and finite"),
        ({"bptt_segments": 0}, r"bptt_segments must be an integer in \[1, 1000000\], or null for all segments, not 0"),
        ({"expert_init_strategies": ["learned"] * 3}, "one strategy for each of the 4 experts, not 3"),
        (
            {"expert_init_strategies": ["learned"] * 3 + ["ones"]},
            "expert_init_strategies must be learned, .* not .*'ones'",
        ),
        ({"num_experts": 3}, "num_experts and num_memory_experts must be equal"),
        ({"hidden_dim": 3}, "hidden_dim and d_model must be equal"),
    ],
)
def test_impossible_values_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        GMMXLNetConfig(**{**GMM, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_memory_experts": 4.0}, "num_memory_experts must be an integer, not 4.0"),
        ({"memory_slots": "16"}, "memory_slots must be an integer, not '16'"),
        ({"memory_type": None}, "memory_type must be none, mems, words, token, differentiable or gmm, not None"),
        ({"usage_tracking": 1}, "usage_tracking must be true or false, not 1"),
        ({"expert_dropout": True}, r"expert_dropout must be a number in \[0, 1\), not True"),
        ({"segment_layout": "long"}, "segment_layout must be null or have max_seq_length, doc_stride, memory_num_toke"),
        ({"segment_layout": {"max_seq_length": 8}}, "segment_layout must be null or have max_seq_length"),
        (
            {"segment_layout": {"max_seq_length": 0, "doc_stride": 0, "memory_num_tokens": 1}},
            r"segment_layout.max_seq_length must be an integer in \[1, ",
        ),
        ({"adapter": "lora"}, "adapter must be null or an object with keys and values, not 'lora'"),
        ({"n_layer": 2.5}, "config: Field 'n_layer' expected int, got float"),  # an inherited key
    ],
)
def test_values_of_another_type_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        GMMXLNetConfig(**{**GMM, **change})


def test_what_was_set_wrong_since_it_was_made_is_not_written(tmp_path):
    config = GMMXLNetConfig(**GMM)
    config.routing_temperature = 0
    with pytest.raises(ConfigError, match="routing_temperature must be > 0 and finite, not 0"):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_one_strategy_may_stand_for_all_experts():
    assert GMMXLNetConfig(**GMM, expert_init_strategies="zeros").expert_init_strategies == ["zeros"] * 4
    one = GMMXLNetConfig(memory_type="token", memory_slots=4, expert_init_strategies=["uniform", "zeros"])
    assert one.expert_init_strategies == ["uniform"]  # the only expert's


@pytest.mark.parametrize("k", range(2, 9))
def test_every_number_of_experts_from_2_to_8_will_do(k):
    config = GMMXLNetConfig(**{**GMM, "num_memory_experts": k})
    assert config.expert_init_strategies == ["learned"] * k
    assert config.has_memory_tokens


def test_config_json_has_the_keys_of_the_format(tmp_path):
    GMMXLNetConfig(**GMM, d_model=64, n_head=4, routing_temperature=0.5).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    expected = {
        **{"model_type": "gmmxlnet", "memory_type": "gmm", "num_memory_experts": 4, "num_experts": 4},
        **{"routing_temperature": 0.5, "routing_mode": "write-based", "memory_slots": 16, "hidden_dim": 64},
        "version": "1.0",
    }
    assert {key: written.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"memory_type": "token", "memory_slots": 4, "bptt_segments": 2},
        {**GMM, "routing_mode": "read-based", "pooling_method": "attention", "routing_temperature": 2},
        {**GMM, "expert_init_strategies": ["zeros", "uniform", "orthogonal", "learned"], "span_loss": "document"},
    ],
    ids=str,
)
def test_saved_and_loaded_it_is_the_same(settings, tmp_path):
    config = GMMXLNetConfig(**settings, d_model=32, n_head=2)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, GMMXLNetConfig)
    of_saving = {"transformers_version", "_name_or_path"}
    same = [{key: value for key, value in x.to_dict().items() if key not in of_saving} for x in (config, loaded)]
    assert same[0] == same[1]


@pytest.mark.parametrize("named", [{"memory_type": "standard"}, {}, {"memory_type": "none"}], ids=str)
def test_standard_or_missing_means_no_memory(named, tmp_path):
    values = {"model_type": "gmmxlnet", "d_model": 32, "n_head": 2, "memory_slots": 16, "num_memory_experts": 4}
    (tmp_path / "config.json").write_text(json.dumps({**values, **named}), encoding="utf-8")
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.memory_type, config.num_memory_experts, config.memory_slots) == ("none", 0, 0)
    assert not config.has_memory_tokens


def test_a_broken_value_in_a_file_is_refused(tmp_path):
    values = {"model_type": "gmmxlnet", **GMM, "num_memory_experts": 12}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match="not 12"):
        AutoConfig.from_pretrained(tmp_path)


def test_token_memory_has_one_expert():
    assert GMMXLNetConfig(memory_type="token", memory_slots=4, num_memory_experts=4).num_memory_experts == 1


def test_memory_tokens_are_the_last_ids():
    config = GMMXLNetConfig(**GMM, vocab_size=100 + 32)
    assert (config.read_token_id, config.write_token_id) == (100, 116)
