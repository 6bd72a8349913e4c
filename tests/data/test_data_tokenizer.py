"""Tokenizers are real ones, and the scratch vocabulary knows its text."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import XLNetTokenizerFast

from gmmxlnet.data.tokenizer import (
    add_memory_tokens,
    base_vocabulary_size,
    encode_texts,
    load_tokenizer,
    memory_tokens,
    num_memory_slots,
    scratch_tokenizer,
)
from gmmxlnet.errors import DataError

XLNET_SPECIAL = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
TEXTS = [
    "Anna. saw the red, red house (Bob's) in its yard; its it it it s s s",
    "naïve … ½ Straße ﬁne 東京 well-known £5",
]


@pytest.fixture(scope="module")
def scratch() -> XLNetTokenizerFast:
    return scratch_tokenizer(TEXTS)


def test_special_tokens_have_the_ids_of_xlnet(scratch: XLNetTokenizerFast) -> None:
    assert scratch.convert_tokens_to_ids(XLNET_SPECIAL) == list(range(9))


def test_words_stay_whole_and_marks_stand_apart(scratch: XLNetTokenizerFast) -> None:
    assert scratch.tokenize("Anna. red, (Bob's) its") == ["▁Anna", ".", "▁red", ",", "▁(", "Bob", "'", "s", ")", "▁its"]


def test_pieces_are_ordered_by_count_then_spelling(scratch: XLNetTokenizerFast) -> None:
    assert scratch.convert_ids_to_tokens(range(9, 14)) == [".", "▁it", "▁s", "▁its", "▁red"]


def test_the_order_of_texts_does_not_matter(scratch: XLNetTokenizerFast) -> None:
    assert scratch_tokenizer(reversed(TEXTS)).get_vocab() == scratch.get_vocab()


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=4))
def test_no_character_of_the_training_text_is_unknown(texts: list[str]) -> None:
    assume(not any(name in text for text in texts for name in XLNET_SPECIAL))  # spelled out, they become <unk>
    encoded = encode_texts(scratch_tokenizer(texts), texts)
    assert not (encoded.ids == 0).any()


def test_saved_and_loaded_it_is_the_same(scratch: XLNetTokenizerFast, tmp_path: Path) -> None:
    scratch.save_pretrained(str(tmp_path / "first"))
    loaded = load_tokenizer(str(tmp_path / "first"))
    loaded.save_pretrained(str(tmp_path / "second"))
    assert loaded.get_vocab() == scratch.get_vocab()
    for text in [*TEXTS, "unseen Wörds!"]:
        assert loaded(text) == scratch(text)
    saved = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("first", "second")]
    assert saved[0] == saved[1]


def test_memory_tokens_lie_above_the_vocabulary(scratch: XLNetTokenizerFast, tmp_path: Path) -> None:
    scratch.save_pretrained(str(tmp_path / "base"))
    tokenizer = load_tokenizer(str(tmp_path / "base"))
    V = len(tokenizer)
    add_memory_tokens(tokenizer, 3)
    assert tokenizer.convert_tokens_to_ids(memory_tokens(3)) == list(range(V, V + 6))
    assert memory_tokens(3)[3] == "[MEM_WRITE_0]"
    assert (base_vocabulary_size(tokenizer), num_memory_slots(tokenizer), len(tokenizer)) == (V, 3, V + 6)
    assert tokenizer.convert_tokens_to_ids("<eop>") == 8
    tokenizer.save_pretrained(str(tmp_path / "memory"))
    assert load_tokenizer(str(tmp_path / "memory")).get_vocab() == tokenizer.get_vocab()


def test_texts_cannot_forge_special_tokens(scratch: XLNetTokenizerFast, tmp_path: Path) -> None:
    scratch.save_pretrained(str(tmp_path))
    tokenizer = load_tokenizer(str(tmp_path))
    add_memory_tokens(tokenizer, 1)
    encoded = encode_texts(tokenizer, ["red <sep><cls> [MEM_READ_0] house"])
    assert not np.isin(encoded.ids, [3, 4, base_vocabulary_size(tokenizer)]).any()


def test_encoding_is_that_of_the_tokenizer_and_never_cut(scratch: XLNetTokenizerFast) -> None:
    scratch(TEXTS[0], truncation=True, max_length=3, padding="max_length")  # leaves truncation on in the backend
    texts = [*TEXTS, "", " "]
    encoded = encode_texts(scratch, texts)
    for row, text in enumerate(texts):
        plain = scratch(text, add_special_tokens=False, return_offsets_mapping=True)
        span = slice(encoded.rows[row], encoded.rows[row + 1])
        assert encoded.ids[span].tolist() == plain["input_ids"]
        assert [tuple(pair) for pair in encoded.chars[span].tolist()] == plain["offset_mapping"]


def test_an_empty_or_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only 9 tokens were found"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model', encoding="utf-8")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("change", [{"unk_id": -1}, {"unk_id": 10**30}, {"unk_token": 3}])
def test_odd_settings_are_refused_in_one_line(scratch: XLNetTokenizerFast, tmp_path: Path, change: dict) -> None:
    scratch.save_pretrained(str(tmp_path))
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change), encoding="utf-8")
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_the_special_tokens_is_refused(tmp_path: Path) -> None:
    vocabulary = [("[UNK]", 0.0), *((f"▁{number}", -1.0) for number in range(120))]
    special = {"unk_token": "[UNK]", "sep_token": "[S]", "cls_token": "[C]", "pad_token": "[P]"}
    XLNetTokenizerFast(vocab=vocabulary, **special).save_pretrained(str(tmp_path))
    with pytest.raises(DataError, match="has no <unk>, <sep>, <pad>, <cls>"):
        load_tokenizer(str(tmp_path))


def test_the_real_tokenizer_loads(shared_folder: Path) -> None:
    tokenizer = load_tokenizer(str(shared_folder / "xlnet-base-cased"))
    assert len(tokenizer) == 32000
    assert tokenizer.tokenize("New York") == ["▁New", "▁York"]


def test_words_of_any_length_leave_the_process_alive(tmp_path: Path) -> None:
    """A piece of 160,000 characters makes a trie that deep, and freeing it ends the process with SIGSEGV."""
    code = (
        "from gmmxlnet.data.tokenizer import scratch_tokenizer, encode_texts\n"
        "word = 'ab' * 80_000\n"
        "tokenizer = scratch_tokenizer(['the ' + word, 'the fox'])\n"
        "tokens = encode_texts(tokenizer, ['fox ' + word])\n"
        "print(max(map(len, tokenizer.get_vocab())), len(tokens.ids), tokens.chars[-1].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1000 162 [160003, 160004]\n"  # fox, and 161 pieces of a ▁ and the word


def test_ids_of_words_that_are_not_cut_are_as_before() -> None:
    texts = ["the quick fox", "x" * 999]
    with_long = scratch_tokenizer([*texts, "y" * 2_500])
    assert [len(encode_texts(with_long, [text]).ids) for text in texts] == [3, 1]
    assert len(encode_texts(with_long, ["y" * 2_500]).ids) == 3


def test_a_file_whose_pieces_would_end_the_process_is_refused(tmp_path: Path) -> None:
    scratch_tokenizer(["a b"]).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"].append(["x" * 160_000, -1.0])
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"the longest of 160,000 characters; at most 1,000,000 of 10,000 make sense"):
        load_tokenizer(str(tmp_path))
