"""Where a reader's characters end: a letter and the marks upon it are one (Unicode's extended grapheme clusters).

A tokenizer that strips accents, or that cuts a word between a letter and its vowel sign, gives tokens that end before
the mark. An answer is text for people, so what a token stands for ends where its last letter does, marks included:
accents in decomposed text, vowel signs of Hindi and Thai, vowel points of Arabic and Hebrew, variation selectors,
joined emoji.

Nor does a reader see the white space that some tokenizers (byte-level BPE) count to the word after it.
"""

from collections.abc import Sequence

import numpy as np
import regex

_CLUSTER = regex.compile(r"\X")
# Characters without which each cluster is one character; but for "\r\n", which is white space.
_JOINING = regex.compile(
    "["
    + "".join(rf"\p{{GCB={kind}}}" for kind in ("Extend", "SpacingMark", "ZWJ", "Prepend", "L", "V", "T", "RI"))
    + "]"
)
_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


def trim_spaces(texts: Sequence[str], chars_T2: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The tokens' characters without white space at their edges.

    A token of white space alone shares the first character after it, as XLNet's lone ▁ does (at a text's end: the last
    one), so that no span of tokens is blank. In a text without visible characters nothing changes.

    Args and Returns as of `extend_to_graphemes`.
    """
    trimmed_T2 = chars_T2.copy()
    for number, text in enumerate(texts):
        tokens_2 = trimmed_T2[rows[number] : rows[number + 1]]  # a view
        visible = ~np.isin(np.frombuffer(text.encode("utf-32-le"), np.uint32), _SPACES)
        if not visible.any():
            continue
        places = np.flatnonzero(visible)
        num_before = np.concatenate(([0], np.cumsum(visible)))  # visible characters before each place
        first = places[np.minimum(num_before[tokens_2[:, 0]], len(places) - 1)]
        last = places[np.maximum(num_before[tokens_2[:, 1]] - 1, 0)]
        tokens_2[:, 0], tokens_2[:, 1] = first, np.maximum(last, first) + 1
    return trimmed_T2


def extend_to_graphemes(texts: Sequence[str], chars_T2: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The tokens' characters with each end moved to the end of the grapheme cluster that it lies in.

    Args:
        chars_T2: (T, 2) int32, first character and the one after the last of all texts' tokens, end to end.
        rows: (N+1,) where each text's tokens begin.

    Returns:
        (T, 2) int32; ends that were in order stay in order.
    """
    extended_T2 = chars_T2
    for number, text in enumerate(texts):
        if text.isascii() or _JOINING.search(text) is None:
            continue
        if extended_T2 is chars_T2:
            extended_T2 = chars_T2.copy()
        cluster_ends = np.fromiter((found.end() for found in _CLUSTER.finditer(text)), np.int32)
        ends = extended_T2[rows[number] : rows[number + 1], 1]  # a view
        inside = ends > 0
        ends[inside] = cluster_ends[np.searchsorted(cluster_ends, ends[inside], side="left")]
    return extended_T2
