"""From params.yaml to a model: every kind of memory is built as the parameters say, and all read the same segments."""

from pathlib import Path

import pytest
import torch

from gmmxlnet.memory_kinds import KINDS
from pipeline.params import load_params
from pipeline.training import build_model, memory_settings

PARAMS = load_params(Path(__file__).resolve().parents[2] / "params.yaml")


def params_with(memory_type, **other):
    return PARAMS.model_copy(update={"memory_type": memory_type, **other})


@pytest.mark.parametrize("memory_type", KINDS)
def test_a_model_of_each_kind(sample_tokenizer, memory_type):
    torch.manual_seed(0)
    model = build_model(params_with(memory_type, expert_init_strategies=["learned"] * 4), sample_tokenizer)
    config, slots = model.config, PARAMS.memory_num_tokens
    assert config.memory_type == memory_type
    assert config.memory_num_tokens == (slots if memory_type in ("token", "gmm") else 0)
    assert config.vocab_size == len(sample_tokenizer) + 2 * config.memory_num_tokens
    assert config.memory_slots == (0 if memory_type in ("none", "mems", "words") else slots)
    assert config.num_memory_experts == {"gmm": 4, "token": 1}.get(memory_type, 0)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} - {"encoder", "qa_head"} == {
        "token": {"expert_mixture", "expert_updater", "memory_reader"},
        "gmm": {"expert_mixture", "expert_updater", "memory_reader", "routing_network"},
        "differentiable": {"memory_bank"},
        "words": {"word_reader"},
    }.get(memory_type, set())


@pytest.mark.parametrize("memory_type", ["mems", "words"])
@pytest.mark.parametrize(("mem_len", "held"), [(None, PARAMS.active.max_seq_length), (200, 200)])
def test_the_cache_holds_a_segment_or_what_is_asked_for(memory_type, mem_len, held):
    assert memory_settings(params_with(memory_type, mem_len=mem_len))["mem_len"] == held


def test_other_memories_have_no_cache():
    assert "mem_len" not in memory_settings(params_with("gmm", mem_len=200))


def test_the_banks_keys_reach_the_model(sample_tokenizer):
    chosen = {"memory_heads": 2, "memory_sharpness": 3.5, "usage_tracking": False, "pooling_method": "attention"}
    bank = build_model(params_with("differentiable", **chosen), sample_tokenizer).memory_bank
    assert (bank.num_heads, bank.sharpness, bank.usage_tracking) == (2, 3.5, False)
    assert bank.pooling.method == "attention"
