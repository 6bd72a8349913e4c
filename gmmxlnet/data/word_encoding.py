"""Encodes many texts word by word: each distinct word is encoded once, however often it occurs.

XLNet's and BERT's tokenizers split a text at white space and encode each word separately, so a text's tokens are the
concatenation of its words' tokens. `encodes_words_alone` checks this for a given tokenizer; other tokenizers encode
whole texts (byte-level BPE: its tokens include the preceding space). A text is split only at spaces that
normalization does not look across. A text with characters that normalization may delete (control and zero-width
characters) is encoded whole, since its token offsets depend on the whole text.

Shapes: N texts, W words of all texts, U distinct words, R tokens of distinct words, T tokens of all texts.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Tokenizer

# Split at spaces between these: they neither form a grapheme with a neighbor nor decompose to text with a space.
_SAFE = "!-~£§©«®°±²³µ·»½¿À-ÖØ-öø-ʯ–—‘’“”…€"  # noqa: RUF001 (dashes and quotation marks as texts have them)
CUT = re.compile(f" (?<=[{_SAFE}] )(?=[{_SAFE}])")
_LOCAL_NORMALIZERS = {"Replace", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Lowercase", "Precompiled"}
_LOCAL_NORMALIZERS |= {"BertNormalizer"}
_SPACE_SPLITTERS = {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}  # after these, no token contains white space
_WORDS_AT_ONCE = 256  # joined into one text: fewer records, and long enough to use all cores


def encodes_words_alone(backend: Tokenizer, texts: Sequence[str]) -> bool:
    """Whether each text's tokens equal those of its words encoded separately."""
    splits, normalizers = _parts(backend.pre_tokenizer, "pretokenizers"), _parts(backend.normalizer, "normalizers")
    added = backend.get_added_tokens_decoder().values()
    swallowing = [token.content for token in added if token.lstrip or token.rstrip]  # absorb adjacent white space
    types = [split["type"] for split in splits]
    metaspace = types == ["WhitespaceSplit", "Metaspace"] and splits[1]["prepend_scheme"] == "always"
    return (
        (metaspace or types == ["BertPreTokenizer"])
        and all(normalizer["type"] in _LOCAL_NORMALIZERS for normalizer in normalizers)
        and not any(token in text for token in swallowing for text in texts)
    )


def splits_at_spaces(backend: Tokenizer) -> bool:
    """Whether texts are split at white space first, so that no token can contain white space."""
    splits = _parts(backend.pre_tokenizer, "pretokenizers")
    return bool(splits) and splits[0]["type"] in _SPACE_SPLITTERS


def _parts(component: Any, key: str) -> list[dict[str, Any]]:
    """Returns the parts of a tokenizer component."""
    if component is None:
        return []
    state = json.loads(component.__getstate__())
    return state.get(key, [state])


def encode_by_words(backend: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns ids (T,) int32, chars (T, 2) int32 and rows (N+1,) int64, without special tokens.

    Requires `encodes_words_alone`.
    """
    words_of_N = [_cut(text) for text in texts]
    seen = dict.fromkeys(chain.from_iterable(words_of_N))
    whole = {words[0]: seen.pop(words[0], None) for words in words_of_N if len(words) == 1}
    different = [*seen, *whole]
    number = dict(zip(different, range(len(different)), strict=True))
    word_W = np.fromiter(map(number.__getitem__, chain.from_iterable(words_of_N)), np.int64)
    lengths_U = np.fromiter(map(len, different), np.int64, len(different))
    ids_R, chars_R2, rows_U = _encode_words(backend, list(seen), list(whole), lengths_U)

    num_words_N = np.fromiter(map(len, words_of_N), np.int64, len(texts))
    word_rows_N = np.concatenate(([0], np.cumsum(num_words_N)))
    ends_W = np.cumsum(lengths_U[word_W] + 1)  # including the space after it, all texts concatenated
    starts_W = ends_W - lengths_U[word_W] - 1
    starts_W -= np.repeat(starts_W[word_rows_N[:-1]], num_words_N)  # relative to its text

    num_tokens_W = np.diff(rows_U)[word_W]
    token_rows_W = np.concatenate(([0], np.cumsum(num_tokens_W)))
    source_T = np.arange(token_rows_W[-1]) + np.repeat(rows_U[word_W] - token_rows_W[:-1], num_tokens_W)
    chars_T2 = chars_R2[source_T] + np.repeat(starts_W, num_tokens_W)[:, None]
    return ids_R[source_T], chars_T2.astype(np.int32), token_rows_W[word_rows_N]


def _cut(text: str) -> list[str]:
    """Splits a text into words, or returns it whole."""
    if not text.replace("\n", "").isprintable():
        return [text]
    return text.split(" ") if text.isascii() else CUT.split(text)


def _encode_words(
    backend: Tokenizer, words: list[str], texts: list[str], lengths_U: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns ids (R,), chars within the word (R, 2) and rows (U+1,) of distinct words, then of whole texts.

    Words are joined into lines and encoded as texts; token offsets identify each token's word.
    """
    lines = ["\n".join(words[i : i + _WORDS_AT_ONCE]) for i in range(0, len(words), _WORDS_AT_ONCE)] + texts
    encodings = backend.encode_batch(lines, add_special_tokens=False)
    ids_R = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32)
    offsets = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings))
    chars_R2 = np.fromiter(offsets, np.int64).reshape(-1, 2)
    line_lengths = np.fromiter(map(len, lines), np.int64, len(lines)) + 1
    num_tokens = np.fromiter(map(len, encodings), np.int64, len(lines))
    chars_R2 += np.repeat(np.cumsum(line_lengths) - line_lengths, num_tokens)[:, None]  # all lines concatenated
    starts_U = np.cumsum(lengths_U + 1) - lengths_U - 1
    word_R = np.searchsorted(starts_U, chars_R2[:, 0], side="right") - 1
    rows_U = np.concatenate(([0], np.cumsum(np.bincount(word_R, minlength=len(lengths_U)))))
    return ids_R, chars_R2 - starts_U[word_R][:, None], rows_U
