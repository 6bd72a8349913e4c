"""Tokenizers: any validated fast tokenizer, or a whole-word vocabulary built from the training text ("scratch").

A tokenizer only needs the tokens `<unk> <sep> <pad> <cls>` and padding on the left: XLNet's Unigram, WordPiece (of a
converted BERT) and byte-level BPE all work.

A text is encoded without special tokens, together with the character range of each token. A special token spelled out
in a text ("<sep>") becomes <unk>, so that a document cannot inject segment structure. `word_encoding.py` is the fast
path.
"""

import json
import math
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import regex
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast, XLNetTokenizerFast

from gmmxlnet.data.graphemes import extend_to_graphemes, trim_spaces
from gmmxlnet.data.long_texts import LONGEST_PIECE, GrowingArray, pieces
from gmmxlnet.data.word_encoding import encode_by_words, encodes_words_alone, splits_at_spaces
from gmmxlnet.errors import DataError, reason_of
from gmmxlnet.folder_files import TOKENIZER_FILES, TOKENIZER_JSON
from gmmxlnet.hub_files import check_sizes
from gmmxlnet.utils.files import MAX_JSON_BYTES, is_unusable
from gmmxlnet.utils.progress import Progress

REQUIRED_TOKENS = ("<unk>", "<sep>", "<pad>", "<cls>")
MIN_VOCABULARY = 100  # offline, from_pretrained silently returns 9 tokens and maps every word to <unk>
MAX_FILE_BYTES = 64 * 2**20  # size of tokenizer.json; the largest in use (260,000 tokens) have 35 MB
SMALL_FILES = ("config.json", *TOKENIZER_JSON)
HUB_FILES = ("config.json", *TOKENIZER_FILES)
_TOKEN_KEYS = {"__type", "id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}
MAX_TOKENS = 1_000_000  # maximum vocabulary size
MAX_PIECE = 1_000  # characters; the trie is as deep as the longest piece and is freed recursively
MAX_SCRATCH_WORDS = 32_000

_XLNET_SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
_SPACE = "▁"
# Scripts without spaces between words or, like Korean, between a word and its particles: a run of letters as one piece
# would hide the answers in it, so each letter (Korean: syllable, in NFKD) with its marks is a piece.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_LETTER = rf"[{_UNSPACED}]\p{{M}}*|\p{{GCB=L}}+\p{{GCB=V}}*\p{{GCB=T}}*"
_PIECE = regex.compile(  # such a letter, a word or one mark, with the space before it
    rf"{_SPACE}?(?:{_LETTER}|[\w--[{_UNSPACED}\p{{Hangul}}]]+|[^\w{_SPACE}])|{_SPACE}", regex.V1
)
_NO_TOKENIZER = (  # as transformers raises them for files that are none
    *(OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, HTTPError),
)
_ENCODE_BATCH = 2_048  # texts encoded at once: bounds the tokenizer's memory use


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Concatenated token ids of many texts: text i has ids[rows[i]:rows[i+1]], with character ranges chars[...]."""

    ids: np.ndarray  # (T,) int32
    chars: np.ndarray  # (T, 2) int32, character range within the text (end exclusive); whole graphemes
    rows: np.ndarray  # (N+1,) int64

    def part(self, first: int, end: int) -> "EncodedTexts":
        """Returns texts `first` to `end` (exclusive)."""
        tokens = slice(self.rows[first], self.rows[end])
        return EncodedTexts(self.ids[tokens], self.chars[tokens], self.rows[first : end + 1] - self.rows[first])


def load_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Loads a fast tokenizer (Unigram, WordPiece, BPE) from a folder or the Hub.

    Raises:
        DataError: it cannot be loaded, its vocabulary is missing, it lacks one of `REQUIRED_TOKENS`, or it
            pads on the right.
    """
    _check_file(Path(source) / "tokenizer.json")
    for file in (Path(source, name) for name in SMALL_FILES):
        if is_unusable(file, MAX_JSON_BYTES):
            raise DataError(
                f"{file}: is no regular file, or has more than {MAX_JSON_BYTES:,} bytes; name another tokenizer"
            )
        _check_added_tokens(file)
    _check_hub(source, revision)
    try:
        if _is_bare(Path(source)):
            tokenizer = XLNetTokenizerFast.from_pretrained(source)
        else:
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    except _NO_TOKENIZER as error:
        raise _unreadable(source, error) from error
    except Exception as error:
        if type(error) is not Exception:  # the Rust code of tokenizers raises plain Exception
            raise
        raise _unreadable(source, error) from error
    return checked_tokenizer(tokenizer, source)


def _is_bare(folder: Path) -> bool:
    """Whether a folder does not specify the kind of its tokenizer; it is then assumed to be XLNet's."""
    return folder.is_dir() and not any((folder / name).exists() for name in ("tokenizer_config.json", "config.json"))


def _check_file(path: Path) -> None:
    """Raises DataError if loading a tokenizer file would need gigabytes or could crash the process."""
    if not path.is_file():
        return
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError(
            f"{path}: has {path.stat().st_size:,} bytes, and no tokenizer needs more than {MAX_FILE_BYTES:,}; "
            "name another tokenizer"
        )
    try:
        pieces = json.loads(path.read_bytes())["model"]["vocab"]  # {piece: id}; Unigram: [[piece, score], …]
        longest = max((len(entry if isinstance(entry, str) else entry[0]) for entry in pieces), default=0)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return  # loading the tokenizer reports the error
    if len(pieces) > MAX_TOKENS or longest > 10 * MAX_PIECE:
        raise DataError(
            f"{path}: has {len(pieces):,} tokens, the longest of {longest:,} characters; at most {MAX_TOKENS:,} of "
            f"{10 * MAX_PIECE:,} make sense; name another tokenizer"
        )


def _check_hub(source: str, revision: str | None) -> None:
    """The same for a tokenizer on the Hub. Raises DataError; what cannot be had is left to the loader."""
    if Path(source).exists():
        return
    try:
        check_sizes(source, HUB_FILES, MAX_FILE_BYTES, revision=revision)
    except ValueError as error:
        raise DataError(f"tokenizer {source!r}: {error}; name another tokenizer") from None
    for name, check in (("tokenizer.json", _check_file), *((name, _check_added_tokens) for name in TOKENIZER_JSON)):
        try:
            file = hf_hub_download(source, name, revision=revision)
        except (OSError, ValueError, HTTPError):
            continue
        check(Path(file))


def _check_added_tokens(path: Path) -> None:
    """Raises DataError if a token has an unknown key: the Rust code of tokenizers would print it to stdout as it is."""
    try:
        rest = [("", json.loads(path.read_bytes()))]
    except (OSError, ValueError, RecursionError):
        return  # loading the tokenizer reports the error
    while rest:
        name, value = rest.pop()
        if isinstance(value, list):
            rest += [("_token" if name.endswith("_tokens") else name, item) for item in value]
        elif isinstance(value, dict) and (name.endswith("_token") or not _TOKEN_KEYS.isdisjoint(value)):
            if unknown := sorted(value.keys() - _TOKEN_KEYS):
                raise DataError(
                    f"{path}: a token has the unknown key {unknown[0]!r}; delete it, or name another tokenizer"
                )
        elif isinstance(value, dict):
            below = "_token" if name == "added_tokens_decoder" else None
            rest += [(below or key, item) for key, item in value.items()]


def _unreadable(source: str, error: Exception) -> DataError:
    return DataError(
        f"tokenizer {source!r}: cannot be loaded ({type(error).__name__}: {reason_of(error)}); "
        "give a folder with tokenizer.json or spiece.model, or a Hub id"
    )


def checked_tokenizer(tokenizer: PreTrainedTokenizerFast, source: str) -> PreTrainedTokenizerFast:
    """Returns the tokenizer if it can be used (see `load_tokenizer`); raises DataError otherwise."""
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
    """Raises DataError unless the special tokens are in the vocabulary, with the right names and roles."""
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
    """Encodes texts to token ids and character ranges, without special tokens and without truncation.

    A token's character range starts and ends with a visible character and includes the combining marks of its last
    letter, whether the tokenizer kept them or not (`graphemes.py`). A text of more than a million characters is encoded
    in pieces (`long_texts.py`).
    """
    if max(map(len, texts), default=0) <= LONGEST_PIECE:
        return _encode(tokenizer, texts)
    ids, chars, rows = GrowingArray(), GrowingArray(), [0]
    with Progress("tokenize", sum(map(len, texts)), "characters") as progress:
        for part, start, num_chars in _encoded_parts(tokenizer, texts):
            if start:  # goes on with the text before
                rows.pop()
            rows += (part.rows[1:] + len(ids)).tolist()
            ids.extend(part.ids)
            chars.extend(part.chars + np.int32(start))
            progress.advance(num_chars)
    return EncodedTexts(ids=ids.array(-1), chars=chars.array(-1, 2), rows=np.array(rows, np.int64))


def _encoded_parts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Iterator[tuple[EncodedTexts, int, int]]:
    """Yields long texts piece by piece and the short ones between them together, with first character and length."""
    for is_long, group in groupby(texts, lambda text: len(text) > LONGEST_PIECE):
        run = list(group)
        if not is_long:
            yield _encode(tokenizer, run), 0, sum(map(len, run))
            continue
        for text in run:
            for start, end in pieces(text):
                yield _encode(tokenizer, [text[start:end]]), start, end - start


def _encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> EncodedTexts:
    """Encodes texts at once."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # an earlier call may have enabled these
    backend.no_padding()
    encode = encode_by_words if encodes_words_alone(backend, texts) else encode_whole
    ids, chars, rows = encode(backend, texts)
    if not splits_at_spaces(backend):
        chars = trim_spaces(texts, chars, rows)
    chars = extend_to_graphemes(texts, chars, rows)
    return EncodedTexts(ids=_without_special(tokenizer, ids), chars=chars, rows=rows)


def encode_whole(backend: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns ids (T,) int32, chars (T, 2) int32 and rows (N+1,) int64, encoding texts in batches."""
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
    """Returns the memory tokens in the order of their ids: all read tokens, then all write tokens."""
    return [f"[MEM_{kind}_{slot}]" for kind in ("READ", "WRITE") for slot in range(num_slots)]


def add_memory_tokens(tokenizer: PreTrainedTokenizerFast, num_slots: int) -> None:
    """Adds the memory tokens after the vocabulary of size V: READ_j gets id V + j, WRITE_j gets V + num_slots + j."""
    tokenizer.add_special_tokens(
        {"additional_special_tokens": memory_tokens(num_slots)}, replace_extra_special_tokens=False
    )


def base_vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Returns V, the vocabulary size without memory tokens."""
    return tokenizer.get_vocab().get("[MEM_READ_0]", len(tokenizer))


def num_memory_slots(tokenizer: PreTrainedTokenizerFast) -> int:
    """Returns the number of [MEM_READ_j] tokens."""
    return sum(1 for token in tokenizer.get_vocab() if token.startswith("[MEM_READ_"))


def scratch_tokenizer(texts: Iterable[str]) -> XLNetTokenizerFast:
    """Builds an XLNet tokenizer whose pieces are the 32,000 most frequent words and punctuation marks of `texts`.

    Ids: XLNet's special tokens, then pieces by (-count, piece), then single characters, so that no character of the
    texts and no printable ASCII character is unknown.
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
    """Computes Unigram scores: log frequency minus a penalty K per piece, where K exceeds any -log frequency.

    The most likely split maximizes the summed scores, so one piece (above -2K) always beats two (below -2K): a known
    word is never split, and an unknown one is split into as few pieces as possible.
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
