"""Extends token offsets to extended grapheme clusters (Unicode): a letter together with its combining marks.

A tokenizer that strips accents, or that cuts a word between a letter and its vowel sign, gives tokens that end before
the mark. Answers are shown to people, so a token's range is extended to include the marks of its last letter:
accents in decomposed text, vowel signs of Hindi and Thai, vowel points of Arabic and Hebrew, variation selectors,
joined emoji.

White space that some tokenizers (byte-level BPE) include at the start of a word is removed from its range.
"""

from collections.abc import Sequence

import numpy as np
import regex

_CLUSTER = regex.compile(r"\X")
# In a text without these, every cluster is a single character (except "\r\n", which is white space).
_JOINING = regex.compile(
    "["
    + "".join(rf"\p{{GCB={kind}}}" for kind in ("Extend", "SpacingMark", "ZWJ", "Prepend", "L", "V", "T", "RI"))
    + "]"
)
_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


def trim_spaces(texts: Sequence[str], chars_T2: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Removes white space from the edges of the tokens' character ranges.

    A white-space token gets the first character after it, as XLNet's lone ▁ does (at the end of a text: the last
    one), so that no span of tokens is blank. A text without visible characters is left unchanged.

    See `extend_to_graphemes` for Args and Returns.
    """
    trimmed_T2 = chars_T2.copy()
    for number, text in enumerate(texts):
        tokens_2 = trimmed_T2[rows[number] : rows[number + 1]]  # a view
        visible = ~np.isin(np.frombuffer(text.encode("utf-32-le"), np.uint32), _SPACES)
        if not visible.any():
            continue
        places = np.flatnonzero(visible)
        num_before = np.concatenate(([0], np.cumsum(visible)))  # visible characters before each position
        first = places[np.minimum(num_before[tokens_2[:, 0]], len(places) - 1)]
        last = places[np.maximum(num_before[tokens_2[:, 1]] - 1, 0)]
        tokens_2[:, 0], tokens_2[:, 1] = first, np.maximum(last, first) + 1
    return trimmed_T2


def extend_to_graphemes(texts: Sequence[str], chars_T2: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Moves the end of each token's character range to the end of its grapheme cluster.

    Args:
        chars_T2: (T, 2) int32, character range (end exclusive) of the tokens of all texts, concatenated.
        rows: (N+1,) offset of each text's first token.

    Returns:
        (T, 2) int32; the order of the ends is preserved.
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
