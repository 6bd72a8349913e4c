"""Training configurations: the guide's defaults and presets, refusals, and the file they are kept in."""

import json

import pytest

from gmmxlnet.errors import ConfigError
from gmmxlnet.training import (
    GMMTrainingConfig,
    TrainingConfig,
    gmm_balanced_config,
    gmm_large_config,
    gmm_small_config,
)


def test_defaults_are_the_guides():
    config = GMMTrainingConfig()
    expected = {
        **{"use_gmm_memory": False, "num_memory_experts": 4, "routing_temperature": 1.0},
        **{"routing_mode": "write-based", "entropy_regularization_weight": 0.0, "load_balance_weight": 0.01},
        **{"memory_num_tokens": 16, "expert_init_strategies": None, "num_epochs": 3, "batch_size": 4},
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.learning_rate == 5e-5


@pytest.mark.parametrize(
    ("preset", "num_experts"), [(gmm_small_config, 2), (gmm_balanced_config, 4), (gmm_large_config, 8)]
)
def test_presets(preset, num_experts):
    config = preset()
    assert (config.use_gmm_memory, config.num_memory_experts) == (True, num_experts)
    assert config.memory_settings()["memory_type"] == "gmm"
    assert preset(num_epochs=5, batch_size=2).num_epochs == 5
    with pytest.raises(ConfigError):
        preset(batch_size=0)


def test_memory_settings_are_what_the_model_takes():
    config = GMMTrainingConfig(use_gmm_memory=True, num_memory_experts=3, memory_num_tokens=5, span_loss="document")
    settings = config.memory_settings()
    assert (settings["num_memory_experts"], settings["memory_slots"], settings["span_loss"]) == (3, 5, "document")
    without = GMMTrainingConfig(memory_num_tokens=5).memory_settings()
    assert (without["memory_type"], without["num_memory_experts"], without["memory_slots"]) == ("none", 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be an integer in .1, 1000000., not 0"),
        ({"num_epochs": 2.5}, "num_epochs must be"),
        ({"batch_size": -1}, "batch_size must be an integer in .1, 65536., not -1"),
        ({"batch_size": "4"}, "batch_size must be"),
        ({"batch_size": True}, "batch_size must be"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be an integer in .1, "),
        ({"logging_steps": 0}, "logging_steps must be an integer in .1, "),
        ({"max_steps": 0}, "max_steps must be"),
        ({"max_steps": -1}, "max_steps must be"),
        ({"num_workers": -1}, "num_workers must be"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
        ({"weight_decay": float("nan")}, "weight_decay must be"),
        ({"learning_rate": 0.0}, "learning_rate must be a number in .0, 1., not 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number in .0, 1., not nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be a number in .0, 1., not inf"),
        ({"learning_rate": "1e-3"}, "learning_rate must be"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be > 0 and finite"),
        ({"warmup_fraction": 1.0}, r"warmup_fraction must be a number in \[0, 1\)"),
        ({"warmup_fraction": -0.1}, r"warmup_fraction must be a number in \[0, 1\)"),
        ({"decay_fraction": -0.1}, "decay_fraction must be a number in .0, 1., not -0.1"),
        (
            {"warmup_fraction": 0.5, "decay_fraction": 0.6},
            "decay_fraction must be at most 0.5, which is what warmup_fraction 0.5 leaves, not 0.6",
        ),
        ({"precision": "fp8"}, "precision must be auto, float32, bfloat16 or float16, not 'fp8'"),
        ({"device": "gpu"}, "device must be auto, cpu or cuda, not 'gpu'"),
        (
            {"progressive_segments": []},
            "progressive_segments must be a list of integers >= 1 such as .*, or null to never cut",
        ),
        (
            {"progressive_segments": [2, 0]},
            "progressive_segments must be a list of integers >= 1 such as .*, or null to never cut",
        ),
        ({"progressive_segments": 2}, "progressive_segments must be"),
        ({"progressive_segments": [1, 2, 3, 4]}, "num_epochs must be at least 4, one for each"),
        ({"seed": None}, "seed must be"),
        ({"seed": -1}, "seed must be an integer in .0, 4294967295., not -1"),
        (
            {"memory_num_tokens": -3},
            "memory_num_tokens must be an integer in .1, 32., or 0 for a memory without slots, not -3",
        ),
        ({"memory_num_tokens": 2.5}, "memory_num_tokens must be an integer in .1, 32., .* not 2.5"),
        ({"fp16": True, "precision": "bfloat16"}, "fp16 and precision bfloat16 contradict each other"),
        ({"hub_dataset_id": 3}, "hub_dataset_id must be"),
        ({"use_differentiable_memory": 1}, "use_differentiable_memory must be true or false"),
        ({"output_dir": None}, "output_dir must be"),
    ],
    ids=str,
)
def test_impossible_values_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_num_tokens": 0}, "memory_num_tokens must be > 0"),
        ({"memory_num_tokens": 33}, "memory_num_tokens must be an integer in .1, 32., .* not 33"),
        ({"num_memory_experts": 1}, r"num_memory_experts must be an integer in \[2, 8\]"),
        ({"num_memory_experts": 9}, r"num_memory_experts must be an integer in \[2, 8\]"),
        ({"num_memory_experts": 2.5}, r"num_memory_experts must be an integer in \[2, 8\], not 2.5"),
        ({"num_memory_experts": 9, "use_gmm_memory": False}, r"num_memory_experts must be an integer in \[2, 8\]"),
        ({"routing_temperature": float("nan")}, "routing_temperature must be > 0 and finite, not nan"),
        ({"load_balance_weight": float("nan")}, "load_balance_weight must be >= 0 and finite, not nan"),
        ({"entropy_regularization_weight": float("inf")}, "entropy_regularization_weight must be >= 0 and finite"),
        ({"memory_reconstruction_weight": float("nan")}, "memory_reconstruction_weight must be >= 0 and finite"),
        (
            {"expert_init_strategies": ["learned"] * 3 + ["ones"]},
            "expert_init_strategies must be learned, .* not .*'ones'",
        ),
        ({"bptt_segments": 0}, "bptt_segments must be an integer in .1, 1000000., or null for all segments, not 0"),
        ({"bptt_segments": 1.5}, "bptt_segments must be an integer in .* not 1.5"),
        ({"expert_dropout": 1.0}, "expert_dropout must be a number in .0, 1., not 1.0"),
        ({"pooling_method": "sum"}, "pooling_method must be mean, max or attention, not 'sum'"),
        ({"span_loss": "token"}, "span_loss must be segment or document, not 'token'"),
        ({"use_differentiable_memory": True}, "use_gmm_memory and use_differentiable_memory exclude each other"),
        ({"routing_temperature": 0.0}, "routing_temperature must be > 0"),
        ({"routing_temperature": "warm"}, "routing_temperature must be"),
        ({"routing_mode": "both"}, "routing_mode must be write-based or"),
        ({"load_balance_weight": -1.0}, "load_balance_weight must be >= 0"),
        ({"expert_init_strategies": ["learned"]}, "one strategy for each of the 4 experts"),
        ({"expert_init_strategies": "ones"}, "expert_init_strategies must be learned, zeros, .* not 'ones'"),
        ({"use_gmm_memory": "yes"}, "use_gmm_memory must be"),
    ],
    ids=str,
)
def test_impossible_memories_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        GMMTrainingConfig(**{"use_gmm_memory": True, **change})


def test_a_bank_needs_no_memory_tokens():
    assert TrainingConfig(use_differentiable_memory=True, memory_num_tokens=0).memory_num_tokens == 0


def test_numbers_may_be_whole():
    assert TrainingConfig(max_grad_norm=1, weight_decay=0).max_grad_norm == 1


@pytest.mark.parametrize(
    ("stages", "num_epochs", "expected"),
    [
        ([2, 4], 4, [2, 2, 4, 4]),
        ([2, 4], 3, [2, 2, 4]),
        ([2, 4, 6], 3, [2, 4, 6]),
        ([2, 4, 6, 8], 5, [2, 2, 4, 6, 8]),
        ([3], 2, [3, 3]),
        (None, 2, [None, None]),
    ],
)
def test_epochs_are_shared_out_over_the_stages(stages, num_epochs, expected):
    config = TrainingConfig(progressive_segments=stages, num_epochs=num_epochs)
    assert [config.max_segments_at(epoch) for epoch in range(num_epochs)] == expected


def test_written_and_read_it_is_the_same(tmp_path):
    path = tmp_path / "config.json"
    strategies = ["learned", "zeros", "uniform"]
    for config in (
        TrainingConfig(),
        TrainingConfig(max_steps=7, progressive_segments=[1, 2], precision="bfloat16"),
        GMMTrainingConfig(use_gmm_memory=True, num_memory_experts=3, expert_init_strategies=strategies),
        gmm_large_config(bptt_segments=2),
    ):
        config.to_json(path)
        loaded = type(config).from_json(path)
        assert loaded == config
        assert type(loaded) is type(config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"num_epoch": 3}', r"config\.json: unknown field 'num_epoch'"),
        ('{"num_epochs": 0}', "num_epochs must be an integer in .1, "),
        ('{"num_epochs": "three"}', "num_epochs must be"),
        ('{"num_epochs": 3', r"config\.json: not JSON"),
        ("", r"config\.json: not JSON"),
        ("[1]", r"config\.json: .*mapping"),
        ("null", r"config\.json: .*mapping"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as failure:
        TrainingConfig.from_json(path)
    assert "\n" not in str(failure.value)


def test_a_missing_file_or_one_of_bytes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read"):
        TrainingConfig.from_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b'{"seed": \xff}')
    with pytest.raises(ConfigError, match=r"config\.json: "):
        TrainingConfig.from_json(tmp_path / "config.json")


def test_a_plain_configuration_has_no_fields_of_the_memory(tmp_path):
    gmm_small_config().to_json(tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["num_memory_experts"] == 2
    with pytest.raises(ConfigError, match="unknown field"):
        TrainingConfig.from_json(tmp_path / "config.json")
