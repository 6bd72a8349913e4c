"""Saved here and loaded in a fresh process with another seed, every kind of model is the same, bit for bit."""

import itertools

import pytest
import torch
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.models.adapter_settings import AdapterSize
from gmmxlnet.models.build import pretrained_model
from gmmxlnet.verification.fingerprint import Fingerprint
from gmmxlnet.verification.full import in_fresh_process

SIZE = {"d_model": 8, "n_head": 2, "n_layer": 1, "d_inner": 8, "initializer_range": 0.4}
WORDS = 40
MEMORIES = [
    *(
        {"memory_type": "gmm", "num_memory_experts": k, "memory_slots": 2, "routing_mode": mode}
        for k, mode in itertools.product(range(2, 9), ("write-based", "read-based"))
    ),
    {"memory_type": "gmm", "num_memory_experts": 3, "memory_slots": 1, "pooling_method": "attention"},
    {"memory_type": "token", "memory_slots": 2},
    {"memory_type": "differentiable", "memory_slots": 3, "memory_heads": 2, "pooling_method": "attention"},
    {"memory_type": "mems", "mem_len": 16},
    {"memory_type": "words", "mem_len": 16},
    {"memory_type": "none"},
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("single file", "shards", "adapter")


def random_model(memory, dtype, base=None):
    """A model, around a base with an adapter or by itself, in which all that is trained is random, zeros too."""
    if base is None:
        model = GMMXLNetForQA(GMMXLNetConfig(**SIZE, vocab_size=WORDS, **memory))
    else:
        model = pretrained_model(str(base), None, range(WORDS), memory, adapter=AdapterSize(rank=2))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().to(dtype)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """By kind, dtype and layout: the fingerprint of what was saved, and of what a fresh process loads."""
    torch.manual_seed(7)
    root = tmp_path_factory.mktemp("round-trip")
    bases = [root / "base", root / "base in shards"]
    for base, size in zip(bases, ("5GB", "1KB"), strict=True):
        XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=WORDS, **SIZE)).save_pretrained(
            base, max_shard_size=size
        )
    keys = list(itertools.product(range(len(MEMORIES)), DTYPES, LAYOUTS))
    expected, folders = [], []
    for n, (kind, dtype, layout) in enumerate(keys):
        model = random_model(MEMORIES[kind], dtype, bases[kind % 2] if layout == "adapter" else None)
        folders.append(root / str(n))
        model.save_pretrained(folders[-1], max_shard_size="1KB" if layout == "shards" else "5GB")
        expected.append(Fingerprint.of(model))
    found = in_fresh_process(folders, seed=99)
    return {key: pair for key, *pair in zip(keys, folders, expected, found, strict=True)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", range(len(MEMORIES)), ids=lambda kind: "-".join(map(str, MEMORIES[kind].values())))
def test_tensors_and_logits_are_the_same_bits(saved, kind, dtype):
    for layout in LAYOUTS:
        _, expected, found = saved[kind, dtype, layout]
        assert found.tensors == expected.tensors
        assert found.logits == expected.logits
        assert len(set(found.logits)) > 20


def test_each_layout_is_what_it_says(saved):
    for (_, _, layout), (folder, _, _) in saved.items():
        assert (folder / "model.safetensors.index.json").exists() == (layout == "shards")
        assert (folder / "model.safetensors").exists() == (layout == "single file")
        assert (folder / "adapter_model.safetensors").exists() == (layout == "adapter")
