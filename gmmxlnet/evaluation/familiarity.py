"""Measures how much of a text is in a tokenizer's vocabulary; confidence about other words is meaningless.

A word is unfamiliar if its tokens are unknown or only its single letters, so that nothing learned about words applies
to it.
"""

from bisect import bisect_left, bisect_right

import numpy as np
import regex

from gmmxlnet.data.long_texts import pieces
from gmmxlnet.data.tokenizer import EncodedTexts

MOST_LISTED = 1000
_NO_ALPHABET = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_WORD = regex.compile(rf"[\p{{L}}--[{_NO_ALPHABET}]]{{3,}}|[{_NO_ALPHABET}]", regex.V1)  # each letter counts


def unfamiliar_words(text: str, encoded: EncodedTexts, number: int, unk_id: int) -> tuple[float, list[str]]:
    """Returns the share of unfamiliar words in a text, 0 to 1, and up to `MOST_LISTED` of them, each once, in order.

    Args:
        number: index of the text in `encoded`.
    """
    num_unfamiliar, num_words, found = 0, 0, dict[str, None]()
    tokens = range(*encoded.rows[number : number + 2].tolist())
    for start, end in pieces(text):
        first = bisect_right(tokens, start, key=lambda t: encoded.chars[t, 1])
        last = bisect_left(tokens, end, key=lambda t: encoded.chars[t, 0])
        held = slice(tokens.start + first, tokens.start + last)
        words = _words(text[start:end], encoded.ids[held], encoded.chars[held] - np.int32(start), unk_id)
        num_words += len(words)
        for word, is_unfamiliar in words:
            num_unfamiliar += is_unfamiliar
            if is_unfamiliar and len(found) < MOST_LISTED:
                found[word] = None
    return num_unfamiliar / num_words if num_words else 0.0, list(found)


def _words(text: str, ids_T: np.ndarray, chars_T2: np.ndarray, unk_id: int) -> list[tuple[str, bool]]:
    """The words of a text, and whether each is unfamiliar."""
    unknown_T = np.concatenate(([0], np.cumsum(ids_T == unk_id)))
    words = [match.span() for match in _WORD.finditer(text)]
    if not words:
        return []
    starts_W, ends_W = np.array(words).T
    first_W = np.searchsorted(chars_T2[:, 1], starts_W, side="right")  # the first token that ends after the start
    end_W = np.searchsorted(chars_T2[:, 0], ends_W, side="left")  # the one after the last that starts before its end
    lengths_W = ends_W - starts_W
    in_letters_W = (end_W - first_W >= lengths_W) & (lengths_W >= 3)
    unfamiliar_W = in_letters_W | (end_W <= first_W) | (unknown_T[np.maximum(end_W, first_W)] > unknown_T[first_W])
    return [(text[start:end], bool(odd)) for (start, end), odd in zip(words, unfamiliar_W, strict=True)]
