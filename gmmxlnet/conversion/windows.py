"""Windows of plain text with a question for distillation, in the teacher's and the student's layout.

The student reads `text <sep> question <sep> <cls>` with segment ids, padded on the left, as this project's segments
are; the teacher reads `[CLS] question [SEP] text [SEP]`. Both have the same tokens, matched by their places. Any
sentence serves as a question, so any text will do.

All random numbers are a function of seed and step, so there is no state to store or replay on resume.

Shapes: B windows of a batch, L tokens of a window with the three special ones, T of the corpus, S sentences in it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gmmxlnet.data.collator import CLS_TYPE, CONTEXT_TYPE, PAD_TYPE, QUESTION_TYPE
from gmmxlnet.data.keyed_hash import keyed_hash
from gmmxlnet.data.tokenizer import encode_texts
from gmmxlnet.errors import DataError
from gmmxlnet.utils.files import digest_of

NUM_SPECIAL_TOKENS = 3
LONGEST_QUESTION = 40  # tokens
SHORTEST_WINDOW = 32  # tokens
FROM_THE_WINDOW = 0.6  # of the questions; the others come from anywhere
NO_TOKEN = 0  # where nothing stands, in both paddings
_SENTENCE = re.compile(r"(?:^|(?<=[.!?。！？]))\s*(?=\S)")  # noqa: RUF001 (Chinese marks)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch, (B, L) int64 each except `is_text` (bool); `place` maps each position to the teacher's position."""

    input_ids: Tensor
    token_type_ids: Tensor
    attention_mask: Tensor
    is_text: Tensor
    teacher_ids: Tensor
    teacher_types: Tensor
    teacher_mask: Tensor
    place: Tensor

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def masked(self, mask_id: int, share: float, seed: int) -> tuple[Self, Tensor]:
        """Mask a share of the text's tokens for both models; returns the batch and the mask (B, L) bool."""
        chance_BL = torch.rand(self.input_ids.shape, generator=torch.Generator().manual_seed(seed))
        hidden_BL = self.is_text & (chance_BL < share)
        at_teacher_BL = torch.zeros_like(hidden_BL).scatter(1, self.place, hidden_BL & self.attention_mask.bool())
        input_ids = self.input_ids.masked_fill(hidden_BL, mask_id)
        teacher_ids = self.teacher_ids.masked_fill(at_teacher_BL, mask_id)
        return replace(self, input_ids=input_ids, teacher_ids=teacher_ids), hidden_BL


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A tokenized text that batches are drawn from."""

    ids_T: np.ndarray  # int32
    sentences_S2: np.ndarray  # int64, first token and the one after the last
    cls_id: int
    sep_id: int
    text_type: int  # the teacher's, of a text after a question
    seed: int

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, text_type: int, seed: int) -> Self:
        """Tokenize texts, which stand end to end as in a document. Raises DataError where they hold no sentence."""
        encoded = encode_texts(tokenizer, texts)
        sentences: list[np.ndarray] = []
        for i, text in enumerate(texts):
            first, end = encoded.rows[i], encoded.rows[i + 1]
            starts = np.searchsorted(encoded.chars[first:end, 0], [match.end() for match in _SENTENCE.finditer(text)])
            bounds = np.unique(np.append(starts, end - first)) + first
            sentences.append(np.stack([bounds[:-1], bounds[1:]], axis=1))
        sentences_S2 = np.concatenate(sentences) if sentences else np.empty((0, 2), np.int64)
        if len(sentences_S2) < 2:
            raise DataError(f"the text has {len(sentences_S2)} sentences, which is too little to learn from; give more")
        return cls(
            ids_T=encoded.ids,
            sentences_S2=sentences_S2,
            cls_id=tokenizer.cls_token_id,
            sep_id=tokenizer.sep_token_id,
            text_type=text_type,
            seed=seed,
        )

    def draw(self, step: int, *, tokens: int, longest: int) -> Batch:
        """The batch of a step: windows of one length up to `longest`, about `tokens` tokens in all."""
        rng = np.random.default_rng([self.seed, step])
        length = int(rng.integers(min(SHORTEST_WINDOW, longest), longest + 1))
        return self.batch(rng, num_windows=max(1, tokens // length), length=length)

    def batch(self, rng: np.random.Generator, *, num_windows: int, length: int) -> Batch:
        """A batch of windows of `length` tokens, fewer only where the whole text has fewer."""
        return collate(
            [self._window(rng, length) for _ in range(num_windows)], self.cls_id, self.sep_id, self.text_type
        )

    def plain(self, rng: np.random.Generator, *, num_windows: int, length: int) -> Tensor:
        """(B, L) int64 for the teacher, `[CLS] text [SEP]`, without questions."""
        room = min(length - 2, len(self.ids_T))
        starts = rng.integers(len(self.ids_T) - room + 1, size=num_windows)
        rows = [[self.cls_id, *self.ids_T[start : start + room].tolist(), self.sep_id] for start in starts]
        return torch.tensor(rows)

    def _window(self, rng: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(text, question), in tokens."""
        shortest_text = max(1, (length - NUM_SPECIAL_TOKENS) // 2)
        start = int(rng.integers(max(1, len(self.ids_T) - length + 1)))
        among = range(len(self.sentences_S2))
        if rng.random() < FROM_THE_WINDOW:
            first, end = np.searchsorted(self.sentences_S2[:, 0], [start, start + shortest_text])
            among = range(first, end) if end > first else among
        first, end = self.sentences_S2[among[int(rng.integers(len(among)))]]
        longest_question = max(1, min(LONGEST_QUESTION, length - NUM_SPECIAL_TOKENS - shortest_text))
        question = self.ids_T[first : min(end, first + longest_question)]
        return self.ids_T[start : start + length - NUM_SPECIAL_TOKENS - len(question)], question


def collate(pairs: Sequence[tuple[np.ndarray, np.ndarray]], cls_id: int, sep_id: int, text_type: int) -> Batch:
    """The batch of (text, question) pairs in tokens."""
    B, L = len(pairs), max(len(text) + len(question) for text, question in pairs) + NUM_SPECIAL_TOKENS
    input_ids, teacher_ids = np.full((B, L), NO_TOKEN, np.int64), np.full((B, L), NO_TOKEN, np.int64)
    types = np.full((B, L), PAD_TYPE, np.int64)
    mask, teacher_types, teacher_mask, place = (np.zeros((B, L), np.int64) for _ in range(4))
    is_text = np.zeros((B, L), bool)
    for b, (text, question) in enumerate(pairs):
        t, q = len(text), len(question)
        n = t + q + NUM_SPECIAL_TOKENS
        input_ids[b, L - n :] = [*text, sep_id, *question, sep_id, cls_id]
        types[b, L - n :] = [*[CONTEXT_TYPE] * (t + 1), *[QUESTION_TYPE] * (q + 1), CLS_TYPE]
        mask[b, L - n :] = 1
        is_text[b, L - n : L - n + t] = True
        teacher_ids[b, :n] = [cls_id, *question, sep_id, *text, sep_id]
        teacher_types[b, q + 2 : n] = text_type
        teacher_mask[b, :n] = 1
        place[b, L - n :] = [*range(q + 2, n), *range(1, q + 2), 0]
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        token_type_ids=torch.from_numpy(types),
        attention_mask=torch.from_numpy(mask),
        is_text=torch.from_numpy(is_text),
        teacher_ids=torch.from_numpy(teacher_ids),
        teacher_types=torch.from_numpy(teacher_types),
        teacher_mask=torch.from_numpy(teacher_mask),
        place=torch.from_numpy(place),
    )


def hold_out(paragraphs: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Split into (training, held out) by text and seed; held out are a twentieth of the paragraphs, at most 200."""
    ranked = sorted(paragraphs, key=lambda text: (keyed_hash(seed, "conversion", text), text))
    chosen = set(ranked[: max(1, min(200, len(ranked) // 20))])
    return [text for text in paragraphs if text not in chosen], [text for text in paragraphs if text in chosen]


def corpus_digest(paragraphs: Sequence[str]) -> str:
    """SHA-256 of all paragraphs in their order."""
    return digest_of(list(paragraphs))
