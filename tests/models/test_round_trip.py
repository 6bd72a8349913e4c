"""Saved here and loaded in a fresh process with another seed, every kind of model is the same, bit for bit."""

import itertools

import pytest
import torch

from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.utils.fingerprint import Fingerprint
from gmmxlnet.verification.full import in_fresh_process

SIZE = {"d_model": 8, "n_head": 2, "n_layer": 1, "d_inner": 8, "initializer_range": 0.4, "vocab_size": 40}
MEMORIES = [
    *(
        {"memory_type": "gmm", "num_memory_experts": k, "memory_slots": 2, "routing_mode": mode}
        for k, mode in itertools.product(range(2, 9), ("write-based", "read-based"))
    ),
    {"memory_type": "gmm", "num_memory_experts": 3, "memory_slots": 1, "pooling_method": "attention"},
    {"memory_type": "token", "memory_slots": 2},
    {"memory_type": "differentiable", "memory_slots": 3, "memory_heads": 2, "pooling_method": "attention"},
    {"memory_type": "mems", "mem_len": 16},
    {"memory_type": "none"},
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHARDS = ("5GB", "1KB")


def random_model(memory, dtype):
    """A model in which every parameter is random, zeros and ones too."""
    model = GMMXLNetForQA(GMMXLNetConfig(**SIZE, **memory)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """By kind, dtype and size of shards: the fingerprint of what was saved, and of what a fresh process loads."""
    torch.manual_seed(7)
    root = tmp_path_factory.mktemp("round-trip")
    keys = list(itertools.product(range(len(MEMORIES)), DTYPES, SHARDS))
    expected, folders = [], []
    for n, (kind, dtype, shards) in enumerate(keys):
        model = random_model(MEMORIES[kind], dtype)
        folders.append(root / str(n))
        model.save_pretrained(folders[-1], max_shard_size=shards)
        expected.append(Fingerprint.of(model))
    found = in_fresh_process(folders, seed=99)
    return {key: pair for key, *pair in zip(keys, folders, expected, found, strict=True)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", range(len(MEMORIES)), ids=lambda kind: "-".join(map(str, MEMORIES[kind].values())))
def test_tensors_and_logits_are_the_same_bits(saved, kind, dtype):
    for shards in SHARDS:
        folder, expected, found = saved[kind, dtype, shards]
        assert found.tensors == expected.tensors
        assert found.logits == expected.logits
        assert len(set(found.logits)) > 20
        assert len(list(folder.glob("model*.safetensors"))) == 1 or shards == "1KB"


def test_shards_are_shards(saved):
    for (_, _, shards), (folder, _, _) in saved.items():
        assert (folder / "model.safetensors.index.json").exists() == (shards == "1KB")
        assert (folder / "model.safetensors").exists() == (shards != "1KB")
