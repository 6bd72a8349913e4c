"""Measures how much of a text is in a tokenizer's vocabulary; confidence about other words is meaningless.

A word is unfamiliar if its tokens are unknown or only its single letters, so that nothing learned about words applies
to it.
"""

import numpy as np
import regex

from gmmxlnet.data.tokenizer import EncodedTexts

_NO_ALPHABET = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_WORD = regex.compile(rf"[\p{{L}}--[{_NO_ALPHABET}]]{{3,}}|[{_NO_ALPHABET}]", regex.V1)  # each letter counts


def unfamiliar_words(text: str, encoded: EncodedTexts, number: int, unk_id: int) -> tuple[float, list[str]]:
    """Returns the share of unfamiliar words in a text, 0 to 1, and these words without duplicates, in order.

    Args:
        number: index of the text in `encoded`.
    """
    tokens = slice(encoded.rows[number], encoded.rows[number + 1])
    ids_T, chars_T2 = encoded.ids[tokens], encoded.chars[tokens]
    unknown_T = np.concatenate(([0], np.cumsum(ids_T == unk_id)))
    words = [match.span() for match in _WORD.finditer(text)]
    if not words:
        return 0.0, []
    starts_W, ends_W = np.array(words).T
    first_W = np.searchsorted(chars_T2[:, 1], starts_W, side="right")  # the first token that ends after the start
    end_W = np.searchsorted(chars_T2[:, 0], ends_W, side="left")  # the one after the last that starts before its end
    lengths_W = ends_W - starts_W
    in_letters_W = (end_W - first_W >= lengths_W) & (lengths_W >= 3)
    unfamiliar_W = in_letters_W | (end_W <= first_W) | (unknown_T[np.maximum(end_W, first_W)] > unknown_T[first_W])
    found = [text[starts_W[w] : ends_W[w]] for w in np.flatnonzero(unfamiliar_W)]
    return float(unfamiliar_W.mean()), list(dict.fromkeys(found))
