"""Tokenizers: any fast one, checked to be real, or a vocabulary of whole words made from the training text ("scratch").

Asked of a tokenizer are the tokens `<unk> <sep> <pad> <cls>`, padding on the left, and nothing else: XLNet's Unigram,
WordPiece (of a converted BERT) and byte-level BPE all do.

A text is encoded without special tokens, together with the characters each token stands for. A special token spelled
out in a text ("<sep>") becomes <unk>: no document may forge the structure of a segment. `word_encoding.py` does it
fast.
"""

import json
import math
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import regex
from huggingface_hub.errors import HTTPError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast, XLNetTokenizerFast

from gmmxlnet.data.graphemes import extend_to_graphemes, trim_spaces
from gmmxlnet.data.word_encoding import encode_by_words, encodes_words_alone, splits_at_spaces
from gmmxlnet.errors import DataError, reason_of

REQUIRED_TOKENS = ("<unk>", "<sep>", "<pad>", "<cls>")
MIN_VOCABULARY = 100  # offline, from_pretrained quietly gives 9 tokens and maps every word to <unk>
MAX_FILE_BYTES = 64 * 2**20  # of a tokenizer.json; the largest in use, of 260,000 tokens, have 35 MB
MAX_TOKENS = 1_000_000  # that a vocabulary may have
MAX_PIECE = 1_000  # characters; the tokenizer's trie is as deep as its longest piece, and freed by recursion
MAX_SCRATCH_WORDS = 32_000

_XLNET_SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
_SPACE = "▁"
# Scripts with no space between words, or, as Korean, none between a word and its particles: a run of letters as one
# piece would swallow the answers in it, so each letter (of Korean: syllable, in NFKD) with its marks is a piece.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_LETTER = rf"[{_UNSPACED}]\p{{M}}*|\p{{GCB=L}}+\p{{GCB=V}}*\p{{GCB=T}}*"
_PIECE = regex.compile(  # such a letter, a word or one mark, with the space before it
    rf"{_SPACE}?(?:{_LETTER}|[\w--[{_UNSPACED}\p{{Hangul}}]]+|[^\w{_SPACE}])|{_SPACE}", regex.V1
)
_ENCODE_BATCH = 2_048  # texts encoded at once: bounds the memory of the tokenizer's own records


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Token ids of many texts end to end: text i has ids[rows[i]:rows[i+1]], standing for characters chars[...]."""

    ids: np.ndarray  # (T,) int32
    chars: np.ndarray  # (T, 2) int32, first character and the one after the last, within the text; whole graphemes
    rows: np.ndarray  # (N+1,) int64

    def part(self, first: int, end: int) -> "EncodedTexts":
        """Texts `first` to `end`, exclusive."""
        tokens = slice(self.rows[first], self.rows[end])
        return EncodedTexts(self.ids[tokens], self.chars[tokens], self.rows[first : end + 1] - self.rows[first])


def load_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerFast:
    """A fast tokenizer (Unigram, WordPiece, BPE) from a folder or the Hub.

    Raises:
        DataError: it cannot be loaded, its vocabulary is not really there, it lacks one of `REQUIRED_TOKENS`, or it
            pads on the right.
    """
    _check_file(Path(source) / "tokenizer.json")
    try:
        if _is_bare(Path(source)):
            tokenizer = XLNetTokenizerFast.from_pretrained(source)
        else:
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, HTTPError) as error:
        raise _unreadable(source, error) from error
    except Exception as error:
        if type(error) is not Exception:  # the Rust of tokenizers raises that class itself, and none below it
            raise
        raise _unreadable(source, error) from error
    return checked_tokenizer(tokenizer, source)


def _is_bare(folder: Path) -> bool:
    """Whether nothing in a folder says what kind of tokenizer its file is of: then it is XLNet's."""
    return folder.is_dir() and not any((folder / name).exists() for name in ("tokenizer_config.json", "config.json"))


def _check_file(path: Path) -> None:
    """DataError where reading a tokenizer's file would cost gigabytes, or its pieces the process."""
    if not path.is_file():
        return
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError(
            f"{path}: has {path.stat().st_size:,} bytes, and no tokenizer needs more than {MAX_FILE_BYTES:,}; "
            "name another tokenizer"
        )
    try:
        pieces = json.loads(path.read_bytes())["model"]["vocab"]  # {piece: id}, or of Unigram [[piece, score], …]
        longest = max((len(entry if isinstance(entry, str) else entry[0]) for entry in pieces), default=0)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return  # the tokenizer's own reader says what is wrong
    if len(pieces) > MAX_TOKENS or longest > 10 * MAX_PIECE:
        raise DataError(
            f"{path}: has {len(pieces):,} tokens, the longest of {longest:,} characters; at most {MAX_TOKENS:,} of "
            f"{10 * MAX_PIECE:,} make sense; name another tokenizer"
        )


def _unreadable(source: str, error: Exception) -> DataError:
    return DataError(
        f"tokenizer {source!r}: cannot be loaded ({type(error).__name__}: {reason_of(error)}); "
        "give a folder with tokenizer.json or spiece.model, or a Hub id"
    )


def checked_tokenizer(tokenizer: PreTrainedTokenizerFast, source: str) -> PreTrainedTokenizerFast:
    """The tokenizer itself, if it can be used here (see `load_tokenizer`); DataError otherwise."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(
            f"tokenizer {source!r}: is a {type(tokenizer).__name__} without a fast form, which alone tells the "
            "characters of its tokens; convert it to a tokenizer.json"
        )
    if len(tokenizer) < MIN_VOCABULARY:
        raise DataError(
            f"tokenizer {source!r}: only {len(tokenizer)} tokens were found, so its vocabulary is missing; "
            "check the name, go online once, or give a folder with tokenizer.json or spiece.model"
        )
    vocabulary = tokenizer.get_vocab()
    _check_required_tokens(tokenizer, source, vocabulary)
    if max(vocabulary.values()) >= len(vocabulary):
        raise DataError(
            f"tokenizer {source!r}: its {len(vocabulary):,} tokens have ids up to {max(vocabulary.values()):,}; give "
            "every id from 0 on to one token, which a model's embeddings follow"
        )
    if tokenizer.padding_side != "left":
        raise DataError(
            f"tokenizer {source!r}: pads on the {tokenizer.padding_side}; XLNet needs padding on the left: set "
            '"padding_side": "left" in its tokenizer_config.json'
        )
    return tokenizer


def _check_required_tokens(tokenizer: PreTrainedTokenizerFast, source: str, vocabulary: dict[str, int]) -> None:
    """DataError unless the special tokens are in the vocabulary, each under its name and in its part."""
    used = {token: getattr(tokenizer, f"{token.strip('<>')}_token") for token in REQUIRED_TOKENS}
    missing = [token for token in REQUIRED_TOKENS if token not in vocabulary]
    if missing:
        others = [used[token] for token in missing if used[token]]
        do = (
            f"it has {', '.join(others)} instead: rename them in tokenizer.json and tokenizer_config.json"
            if others
            else f"use one with {' '.join(REQUIRED_TOKENS)}"
        )
        raise DataError(f"tokenizer {source!r}: has no {', '.join(missing)}; {do}")
    for token, name in used.items():
        if name != token:
            part = f"{token.strip('<>')}_token"
            raise DataError(
                f"tokenizer {source!r}: its {part} is {name}, though it has {token}; "
                f'set "{part}": "{token}" in tokenizer_config.json'
            )


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> EncodedTexts:
    """Token ids and their characters for each text, without special tokens; never cut.

    A token's characters begin and end with something visible, and take in the marks of its last letter, whether the
    tokenizer kept those or not (`graphemes.py`).
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # an earlier call may have left these on
    backend.no_padding()
    encode = encode_by_words if encodes_words_alone(backend, texts) else encode_whole
    ids, chars, rows = encode(backend, texts)
    if not splits_at_spaces(backend):
        chars = trim_spaces(texts, chars, rows)
    chars = extend_to_graphemes(texts, chars, rows)
    return EncodedTexts(ids=_without_special(tokenizer, ids), chars=chars, rows=rows)


def encode_whole(backend: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (T,) int32, characters (T, 2) int32 and rows (N+1,) int64, some thousand texts at once."""
    ids, chars = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    lengths: list[int] = []
    for first in range(0, len(texts), _ENCODE_BATCH):
        encodings = backend.encode_batch(list(texts[first : first + _ENCODE_BATCH]), add_special_tokens=False)
        lengths.extend(map(len, encodings))
        ids.append(np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32))
        spans = chain.from_iterable(encoding.offsets for encoding in encodings)
        chars.append(np.fromiter(chain.from_iterable(spans), np.int32))
    rows = np.cumsum([0, *lengths], dtype=np.int64)
    return np.concatenate(ids), np.concatenate(chars).reshape(-1, 2), rows


def _without_special(tokenizer: PreTrainedTokenizerFast, tokens_T: np.ndarray) -> np.ndarray:
    return np.where(np.isin(tokens_T, tokenizer.all_special_ids), np.int32(tokenizer.unk_token_id), tokens_T)


def memory_tokens(num_slots: int) -> list[str]:
    """The names of the memory tokens in the order of their ids: all reads, then all writes."""
    return [f"[MEM_{kind}_{slot}]" for kind in ("READ", "WRITE") for slot in range(num_slots)]


def add_memory_tokens(tokenizer: PreTrainedTokenizerFast, num_slots: int) -> None:
    """Add the memory tokens above the vocabulary of size V: READ_j gets id V + j, WRITE_j gets V + num_slots + j."""
    tokenizer.add_special_tokens(
        {"additional_special_tokens": memory_tokens(num_slots)}, replace_extra_special_tokens=False
    )


def base_vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """V: the number of tokens below the memory tokens."""
    return tokenizer.get_vocab().get("[MEM_READ_0]", len(tokenizer))


def num_memory_slots(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many [MEM_READ_j] the tokenizer has."""
    return sum(1 for token in tokenizer.get_vocab() if token.startswith("[MEM_READ_"))


def scratch_tokenizer(texts: Iterable[str]) -> XLNetTokenizerFast:
    """An XLNet tokenizer whose pieces are the words and marks of `texts`, the most frequent 32,000 whole.

    Ids: XLNet's special tokens, then pieces by (-count, piece), then single characters, so that no character of the
    texts (nor printable ASCII) is unknown.
    """
    blank = XLNetTokenizerFast(vocab=[(token, 0.0) for token in _XLNET_SPECIAL]).backend_tokenizer
    words: Counter[str] = Counter()
    for text in texts:
        split = blank.pre_tokenizer.pre_tokenize_str(blank.normalizer.normalize_str(text))
        words.update(word for word, _ in split)
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece in _PIECE.findall(word):
            for first in range(0, len(piece), MAX_PIECE):
                counts[piece[first : first + MAX_PIECE]] += count
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_SCRATCH_WORDS]
    return XLNetTokenizerFast(vocab=_scored_vocabulary(ranked, characters={c for word in words for c in word}))


def _scored_vocabulary(ranked: list[tuple[str, int]], characters: set[str]) -> list[tuple[str, float]]:
    """Unigram scores: log frequency less a toll K on every piece, K above any -log frequency.

    The most likely split sums the scores, so one piece (above -2K) always beats two (below -2K): a known word is
    never cut, and an unknown one is cut into as few pieces as can be.
    """
    total = math.log(sum(count for _, count in ranked) + 1)
    toll = total + 1
    scored = [(piece, math.log(count) - total - toll) for piece, count in ranked]
    known = {piece for piece, _ in ranked}
    fallback = sorted((characters | set(string.ascii_letters + string.digits + string.punctuation) | {_SPACE}) - known)
    return [
        *((token, 0.0) for token in _XLNET_SPECIAL),
        *scored,
        *((character, -2 * toll) for character in fallback),
    ]
