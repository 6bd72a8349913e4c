"""Small fast tokenizers of each kind, trained on texts of the tests, with the four tokens and padding on the left."""

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = {"unk_token": "<unk>", "sep_token": "<sep>", "pad_token": "<pad>", "cls_token": "<cls>"}
_NAMES = [*SPECIAL.values()]


def _wordpiece(texts: Sequence[str]) -> Tokenizer:
    """As BERT's: lower case, accents stripped, split at spaces and marks."""
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=_NAMES, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return backend


def _byte_bpe(texts: Sequence[str]) -> Tokenizer:
    """As GPT-2's: bytes, and tokens that begin with a space."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=_NAMES, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return backend


def _unigram(texts: Sequence[str]) -> Tokenizer:
    """As T5's: accents kept, ▁ for each space."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer, backend.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=_NAMES, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return backend


def _spaced_bpe(texts: Sequence[str]) -> Tokenizer:
    """BPE of words that were split at white space, each with its ▁."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence(steps), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=_NAMES, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return backend


KINDS: dict[str, Callable[[Sequence[str]], Tokenizer]] = {
    "wordpiece": _wordpiece,
    "byte-level bpe": _byte_bpe,
    "unigram": _unigram,
    "bpe of words": _spaced_bpe,
}


def make_tokenizer(kind: str, texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of the kind, trained on the texts."""
    return PreTrainedTokenizerFast(tokenizer_object=KINDS[kind](texts), padding_side="left", **SPECIAL)
