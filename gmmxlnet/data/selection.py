"""Selects the documents of a split by keyed hashes, independently of file order and other documents.

choice = choose(parts, limit, fraction, seed)       # reads every part once and keeps hashes
train, calibration = choice.split(part)             # of any part
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gmmxlnet.data.keyed_hash import keyed_hash
from gmmxlnet.data.squad import Passage, Question

Asked = tuple[Passage, Question]  # a document: a passage and a question about it
NONE_CALIBRATES = -1


@dataclass(frozen=True, slots=True)
class Choice:
    """Which documents are kept, and which of these are held out from training to calibrate on.

    Args:
        kept_ids: the questions within the limit; None: all.
        bound: a text calibrates if its hash is at most this.
        num_kept: number of documents kept.
    """

    seed: int
    kept_ids: frozenset[str] | None
    bound: int
    num_kept: int

    def keeps(self, question: Question) -> bool:
        """Whether the question is within the limit."""
        return self.kept_ids is None or question.id in self.kept_ids

    def split(self, documents: Sequence[Asked]) -> tuple[list[Asked], list[Asked]]:
        """Returns the kept documents for training, and for calibration, in their order."""
        kept = [document for document in documents if self.keeps(document[1])]
        if self.bound == NONE_CALIBRATES:
            return kept, []
        calibrates = {text: hash_ <= self.bound for text, hash_ in _text_hashes(kept, self.seed).items()}
        train = [document for document in kept if not calibrates[document[0].text]]
        return train, [document for document in kept if calibrates[document[0].text]]


def choose(parts: Iterable[Sequence[Asked]], limit: int | None, fraction: float, seed: int) -> Choice:
    """Chooses the `limit` documents with the lowest hashes, and of these the texts in the lowest `fraction`.

    Memory: 8 bytes a text without a limit, else what `limit` ids take. With a fraction above 0 and at least two texts,
    some documents calibrate and some do not.
    """
    num_seen, lowest, hashes = 0, list[tuple[int, str, int]](), [np.empty(0, np.uint64)]
    for documents in parts:
        num_seen += len(documents)
        hash_of = _text_hashes(documents, seed) if fraction else {}
        if limit is None:
            hashes.append(np.fromiter(hash_of.values(), np.uint64, len(hash_of)))
        else:
            lowest = heapq.nsmallest(limit, [*lowest, *_ranked(documents, hash_of, seed)])
    if limit is not None:
        hashes = [np.array([text_hash for _, _, text_hash in lowest], np.uint64)]
    return Choice(
        seed=seed,
        kept_ids=None if limit is None else frozenset(id_ for _, id_, _ in lowest),
        bound=_calibration_bound(np.unique(np.concatenate(hashes)), fraction),
        num_kept=num_seen if limit is None else len(lowest),
    )


def limit_documents(documents: Sequence[Asked], limit: int | None, seed: int) -> list[Asked]:
    """Returns the `limit` documents with the lowest hashes, in their original order."""
    return choose([documents], limit, 0.0, seed).split(documents)[0]


def _text_hashes(documents: Sequence[Asked], seed: int) -> dict[str, int]:
    """The hash of each text: an article is hashed once, not once a question."""
    texts = dict.fromkeys(passage.text for passage, _ in documents)
    return {text: keyed_hash(seed, "calibration", text) for text in texts}


def _ranked(documents: Sequence[Asked], hash_of: dict[str, int], seed: int) -> Iterator[tuple[int, str, int]]:
    for passage, question in documents:
        yield keyed_hash(seed, "document", question.id), question.id, hash_of.get(passage.text, 0)


def _calibration_bound(hashes: np.ndarray, fraction: float) -> int:
    """The highest hash of a text that calibrates; `hashes` are those of all texts in ascending order, uint64."""
    if not fraction:
        return NONE_CALIBRATES
    num_calibration = int(np.searchsorted(hashes, np.uint64(math.ceil(fraction * 2**64))))
    num_calibration = min(max(num_calibration, 1), max(len(hashes) - 1, 0))
    return int(hashes[num_calibration - 1]) if num_calibration else NONE_CALIBRATES
