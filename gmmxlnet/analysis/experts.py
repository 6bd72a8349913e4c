"""What is routed to each expert: types of question, typical words, and the clearest segment.

Shapes: N segments, k experts, V words.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from gmmxlnet.analysis.routing import RoutingTable
from gmmxlnet.data.documents import Documents

WORD = re.compile(r"\w+")
MOST_SEGMENTS = 5000  # whose words are counted, spaced evenly over the dataset
WORDS_SHOWN = 10
PRIOR_WORDS = 500  # pseudo-counts from the overall distribution, so that rare words do not rank high


@dataclass(frozen=True)
class ExpertProfile:
    """What one expert is used for over a dataset."""

    expert: int
    share: float  # mean routing probability over all segments
    share_by_type: dict[str, float]  # the same over the segments of each type of question
    words: list[tuple[str, float]]  # most typical first, with the ratio of their frequency to that in all segments
    example: str  # the text of the segment with the highest routing probability
    example_probability: float


def segment_text(documents: Documents, document: int, segment: int) -> str:
    """The part of a document's context that lies in one of its segments."""
    first, end = documents[document].segments[segment].tolist()
    if first == end:
        return ""
    start, stop = documents.token_char_span(document, first, end - 1)
    return documents.context_text(document)[start:stop]


def expert_profiles(documents: Documents, table: RoutingTable) -> list[ExpertProfile]:
    """A profile of each expert, from the routing of these documents' segments."""
    rows = table.rows(np.unique(np.linspace(0, len(table) - 1, min(len(table), MOST_SEGMENTS)).astype(int)))
    texts = [segment_text(documents, int(d), int(s)) for d, s in zip(rows.document, rows.segment, strict=True)]
    words = typical_words(texts, rows.probs)
    type_N = np.array([documents.question_type(int(d)) for d in table.document], dtype=object)
    types = sorted({name for name in type_N if name is not None})
    clearest_k = rows.probs.argmax(0)
    return [
        ExpertProfile(
            expert=j,
            share=float(table.probs[:, j].mean()),
            share_by_type={name: float(table.probs[type_N == name, j].mean()) for name in types},
            words=words[j],
            example=texts[clearest_k[j]],
            example_probability=float(rows.probs[clearest_k[j], j]),
        )
        for j in range(table.probs.shape[1])
    ]


def typical_words(texts: list[str], probs_Nk: np.ndarray) -> list[list[tuple[str, float]]]:
    """For each expert its most typical words, and the ratio of their frequency to that in all segments.

    A segment counts for an expert with its routing probability. Words are ranked by the z-score of the log odds ratio
    with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008, eq. 22); ties are broken alphabetically.
    """
    counts = [Counter(WORD.findall(text.lower())) for text in texts]
    vocabulary = sorted(set().union(*counts))
    column = {word: v for v, word in enumerate(vocabulary)}
    weight_kV = np.zeros((probs_Nk.shape[1], len(vocabulary)))
    for count, probs_k in zip(counts, probs_Nk, strict=True):
        for word, times in count.items():
            weight_kV[:, column[word]] += probs_k * times
    total_V = weight_kV.sum(0)
    if not total_V.sum():
        return [[] for _ in weight_kV]
    prior_V = PRIOR_WORDS * total_V / total_V.sum()
    found = []
    for here_V in weight_kV:
        here, rest = here_V + prior_V, total_V - here_V + prior_V
        log_odds = np.log(here / (here.sum() - here)) - np.log(rest / (rest.sum() - rest))
        z_V = log_odds / np.sqrt(1 / here + 1 / rest)
        ratio_V = (here_V / max(here_V.sum(), math.ulp(1.0))) / (total_V / total_V.sum())
        best = [v for v in np.argsort(-z_V, kind="stable")[:WORDS_SHOWN] if z_V[v] > 0]
        found.append([(vocabulary[v], float(ratio_V[v])) for v in best])
    return found
