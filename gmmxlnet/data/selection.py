"""Selects the documents of a split by keyed hashes, independently of file order and other documents."""

from collections.abc import Sequence

from gmmxlnet.data.keyed_hash import keyed_hash
from gmmxlnet.data.squad import Passage, Question

Asked = tuple[Passage, Question]  # a document: a passage and a question about it


def limit_documents(documents: Sequence[Asked], limit: int | None, seed: int) -> list[Asked]:
    """Returns the `limit` documents with the lowest hashes, in their original order."""
    if limit is None or limit >= len(documents):
        return list(documents)
    ranked = sorted(
        range(len(documents)), key=lambda i: (keyed_hash(seed, "document", documents[i][1].id), documents[i][1].id)
    )
    return [documents[i] for i in sorted(ranked[:limit])]


def split_calibration(documents: Sequence[Asked], fraction: float, seed: int) -> tuple[list[Asked], list[Asked]]:
    """Returns (train, calibration); texts with a hash in the lowest `fraction` go to calibration with their questions.

    With a fraction above 0 and at least two texts, neither side is empty.
    """
    texts = dict.fromkeys(passage.text for passage, _ in documents)  # an article is hashed once, not once a question
    hashes = {text: keyed_hash(seed, "calibration", text) for text in texts}
    ranked = sorted(hashes, key=lambda text: (hashes[text], text))
    num_calibration = sum(hash_ < fraction * 2**64 for hash_ in hashes.values())
    num_calibration = min(max(num_calibration, int(fraction > 0)), max(len(ranked) - 1, 0))
    chosen = set(ranked[:num_calibration])
    train = [document for document in documents if document[0].text not in chosen]
    return train, [document for document in documents if document[0].text in chosen]
