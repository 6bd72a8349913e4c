"""Windows of a corpus with masked spans: batches for masked-span prediction.

Spans of up to 10 tokens, with geometric lengths (p = 0.2), are drawn until 15% of a window is selected. 80% of the
spans are replaced by `<mask>`, 10% by random tokens, and 10% are kept, so that the model cannot tell which tokens are
original (SpanBERT: Joshi et al. 2020, https://arxiv.org/abs/1907.10529, section 3.1). As in XLNet's pretraining, a
window is split in two, `A <sep> B <sep> <cls>`; the shorter part B is where questions are later.

All random numbers are a function of seed, epoch and window, so there is no state to store or replay on resume.

Shapes: B windows in a batch, L tokens of a window with the three special ones, C = L - 3 without, T of the corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import XLNetTokenizerFast

from gmmxlnet.data.collator import CLS_TYPE, CONTEXT_TYPE, IGNORED, QUESTION_TYPE
from gmmxlnet.errors import ConfigError

SPAN_P, LONGEST_SPAN = 0.2, 10
MASKED, RANDOM = 0.8, 0.1  # fractions of the spans; the rest is kept
NUM_SPECIAL_TOKENS = 3  # two <sep> and <cls>


def count_windows(num_tokens: int, length: int) -> int:
    """Return the number of windows in a corpus of this many tokens, if the first starts at a random offset."""
    return num_tokens // (length - NUM_SPECIAL_TOKENS) - 1


def choose_spans(rng: np.random.Generator, num_tokens: int, share: float) -> list[tuple[int, int]]:
    """Draw spans [first, end) that cover `share` of the tokens, at least one; spans may be adjacent."""
    wanted = max(1, round(share * num_tokens))
    chosen = np.zeros(num_tokens, bool)
    spans: list[tuple[int, int]] = []
    while (missing := wanted - int(chosen.sum())) > 0:
        size = min(int(rng.geometric(SPAN_P)), LONGEST_SPAN, missing)
        start = int(rng.integers(num_tokens - size + 1))
        if not chosen[start : start + size].any():
            chosen[start : start + size] = True
            spans.append((start, start + size))
    return spans


@dataclass(kw_only=True)
class MaskedSpanCollator:
    """Collate function: maps indices of windows to a batch.

    input_ids, token_type_ids, attention_mask  (B,L) int64
    labels                                     (B,L) int64: the original token; -100 outside the selected spans
    """

    tokens: np.ndarray  # (T,) the corpus
    length: int  # L
    mask_share: float
    vocab_size: int
    mask_id: int
    sep_id: int
    cls_id: int
    seed: int
    epoch: int = 0

    def __post_init__(self) -> None:
        if self.num_windows < 1:
            raise ConfigError(
                f"the corpus has {len(self.tokens):,} tokens in one part, fewer than two windows of {self.length}; "
                "give more text, hold out more of it, or lower the length"
            )

    @classmethod
    def of(
        cls, tokens: np.ndarray, tokenizer: XLNetTokenizerFast, *, length: int, mask_share: float, seed: int
    ) -> "MaskedSpanCollator":
        """Create the collator for one part of a corpus."""
        return cls(
            tokens=tokens,
            length=length,
            mask_share=mask_share,
            vocab_size=len(tokenizer),
            mask_id=tokenizer.mask_token_id,
            sep_id=tokenizer.sep_token_id,
            cls_id=tokenizer.cls_token_id,
            seed=seed,
        )

    @property
    def num_windows(self) -> int:
        """Number of windows."""
        return count_windows(len(self.tokens), self.length)

    def __call__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return the batch of these windows."""
        size = self.length - NUM_SPECIAL_TOKENS
        shift = int(np.random.default_rng([self.seed, self.epoch]).integers(size))  # another offset in each epoch
        rows = [self._window(index, shift + index * size, size) for index in indices]
        batch = [torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)]
        names = ("input_ids", "token_type_ids", "labels")
        return dict(zip(names, batch, strict=True)) | {"attention_mask": torch.ones_like(batch[0])}

    def _window(self, index: int, start: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        truth_C = self.tokens[start : start + size].astype(np.int64)
        shown_C, labels_C = truth_C.copy(), np.full(size, IGNORED, np.int64)
        for first, end in choose_spans(rng, size, self.mask_share):
            labels_C[first:end] = truth_C[first:end]
            fate = rng.random()
            if fate < MASKED:
                shown_C[first:end] = self.mask_id
            elif fate < MASKED + RANDOM:
                shown_C[first:end] = rng.integers(self.vocab_size, size=end - first)
        cut = int(rng.integers(size // 2, size))  # the second part is shorter, like a question
        marks, none = np.array([self.sep_id, self.cls_id]), np.array([IGNORED, IGNORED])
        types = np.repeat([CONTEXT_TYPE, QUESTION_TYPE, CLS_TYPE], [cut + 1, size - cut + 1, 1])
        return (
            np.concatenate([shown_C[:cut], marks[:1], shown_C[cut:], marks]),
            types.astype(np.int64),
            np.concatenate([labels_C[:cut], none[:1], labels_C[cut:], none]),
        )
