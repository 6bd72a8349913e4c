"""What the tests of the model share: small random models, and documents made of known words, one at a time."""

import numpy as np
import pytest
import torch

from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA

WORDS = 60  # of the vocabulary without memory tokens; ids below 9 are XLNet's special tokens
SLOTS = 3
SEP, CLS, PAD = 4, 3, 5
IGNORED = -100


@pytest.fixture(scope="session")
def tiny_model():
    """A function from memory type and number of experts to a float64 model in which every parameter matters."""

    def make(memory_type="gmm", k=4, *, seed=0, **other):
        torch.manual_seed(seed)
        with_memory = memory_type != "none"
        size = {"d_model": 16, "n_head": 4, "n_layer": 2, "d_inner": 24, "dropout": 0.0, "initializer_range": 0.4}
        model = GMMXLNetForQA(
            GMMXLNetConfig(
                **{**size, "vocab_size": WORDS + (2 * SLOTS if with_memory else 0), "sep_token_id": SEP, **other},
                memory_type=memory_type,
                num_memory_experts=k if memory_type == "gmm" else int(with_memory),
                memory_slots=SLOTS if with_memory else 0,
            )
        )
        with torch.no_grad():
            for parameter in model.parameters():  # a bias of zero would hide its absence
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model.double().eval()

    return make


@pytest.fixture(scope="session")
def document():
    """A function from (seed, number of segments) to a document: for each segment (context ids, question ids)."""

    def make(seed, num_segments):
        rng = np.random.default_rng(seed)
        question = rng.integers(9, WORDS, size=rng.integers(2, 5)).tolist()
        return [(rng.integers(9, WORDS, size=rng.integers(3, 8)).tolist(), question) for _ in range(num_segments)]

    return make


@pytest.fixture(scope="session")
def batch_of():
    """A function from documents to a batch, padded on the left to `length` tokens and `num_segments` segments.

    With `labels`, a list of (segment, first, last) or None a document: context tokens that answer.
    """

    def make(documents, *, slots=SLOTS, length=0, num_segments=0, labels=None):
        writes, reads = [WORDS + slots + j for j in range(slots)], [WORDS + j for j in range(slots)]
        rows = [
            [
                (
                    [*context, *writes, SEP, *reads, *question, SEP, CLS],
                    [0] * (len(context) + slots + 1) + [1] * (slots + len(question) + 1) + [2],
                )
                for context, question in segments
            ]
            for segments in documents
        ]
        B, S = len(rows), max(num_segments, *map(len, rows))
        L = max(length, *(len(ids) for segments in rows for ids, _ in segments))
        batch = {
            "input_ids": torch.full((B, S, L), PAD),
            "attention_mask": torch.zeros(B, S, L, dtype=torch.int64),
            "token_type_ids": torch.full((B, S, L), 3),
            "num_segments": torch.tensor([len(segments) for segments in rows]),
        }
        positions = torch.full((2, B, S), IGNORED)
        for b, segments in enumerate(rows):
            for s, (ids, types) in enumerate(segments):
                batch["input_ids"][b, s, L - len(ids) :] = torch.tensor(ids)
                batch["token_type_ids"][b, s, L - len(ids) :] = torch.tensor(types)
                batch["attention_mask"][b, s, L - len(ids) :] = 1
                held = labels is not None and labels[b] is not None and labels[b][0] == s
                for i in (0, 1):
                    positions[i, b, s] = L - len(ids) + labels[b][1 + i] if held else L - 1
        if labels is not None:
            batch |= {"start_positions": positions[0], "end_positions": positions[1]}
        return batch

    return make


@pytest.fixture
def documents(document):
    """Of 3, 1, 2 and 4 segments: in no order."""
    return [document(seed, num_segments) for seed, num_segments in enumerate((3, 1, 2, 4))]


@pytest.fixture(scope="session")
def logits_of():
    """A function from an output, its batch, a document and a segment to that segment's (2, n) logits, unpadded."""

    def get(output, batch, b, s):
        tokens = batch["attention_mask"][b, s].bool()
        return torch.stack([output.start_logits[b, s][tokens], output.end_logits[b, s][tokens]])

    return get
