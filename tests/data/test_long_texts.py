"""A text is encoded in pieces as it is at once, and in memory that its length does not multiply."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gmmxlnet.data import long_texts
from gmmxlnet.data import tokenizer as tokenizers
from gmmxlnet.data.tokenizer import encode_texts
from gmmxlnet.evaluation import familiarity
from gmmxlnet.evaluation.familiarity import unfamiliar_words

ROOT = Path(__file__).resolve().parents[2]
WORDS = st.text(st.sampled_from("ab é.\n नम1“”"), max_size=12)


@pytest.fixture
def in_pieces(monkeypatch):
    monkeypatch.setattr(long_texts, "LONGEST_PIECE", 40)
    monkeypatch.setattr(tokenizers, "LONGEST_PIECE", 40)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(WORDS, max_size=40).map(" ".join), min_size=1, max_size=4))
def test_pieces_cover_the_text_and_none_is_long(texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_texts, "LONGEST_PIECE", 40)
        for text in texts:
            found = list(long_texts.pieces(text))
            assert "".join(text[start:end] for start, end in found) == text
            assert all(0 < end - start <= 40 for start, end in found[:-1])


def test_a_long_text_has_the_tokens_of_the_whole(sample_tokenizer, monkeypatch):
    sentence = "Under the green flag, the baker is Anna: “Clara”, Büro 7 — and more. "
    texts = ["short", sentence * 20, "", "x" * 200, f"{sentence * 3}\n\n{sentence}", "short again"]
    whole = encode_texts(sample_tokenizer, texts)
    unfamiliar = [unfamiliar_words(text, whole, i, sample_tokenizer.unk_token_id) for i, text in enumerate(texts)]
    monkeypatch.setattr(long_texts, "LONGEST_PIECE", 100)
    monkeypatch.setattr(tokenizers, "LONGEST_PIECE", 100)
    pieces = encode_texts(sample_tokenizer, texts)
    assert pieces.rows[:4].tolist() == whole.rows[:4].tolist()
    same = slice(0, whole.rows[3])
    assert np.array_equal(pieces.ids[same], whole.ids[same])
    assert np.array_equal(pieces.chars[same], whole.chars[same])
    for number in (0, 1, 2, 4, 5):  # the word of 200 letters is cut
        assert np.array_equal(pieces.part(number, number + 1).chars, whole.part(number, number + 1).chars)
        found = unfamiliar_words(texts[number], pieces, number, sample_tokenizer.unk_token_id)
        assert found == unfamiliar[number]
    assert pieces.ids.flags.writeable


def test_only_some_unfamiliar_words_are_kept(sample_tokenizer, monkeypatch):
    monkeypatch.setattr(familiarity, "MOST_LISTED", 3)
    text = " ".join(f"qx{chr(97 + n)}zw" for n in range(20))
    share, words = unfamiliar_words(text, encode_texts(sample_tokenizer, [text]), 0, sample_tokenizer.unk_token_id)
    assert share == 1.0
    assert words == ["qxazw", "qxbzw", "qxczw"]


def test_an_array_grows_outside_of_memory():
    grown, parts = long_texts.GrowingArray(), [np.arange(i, i + 300_000).reshape(-1, 2) for i in range(3)]
    tracemalloc.start()
    for part in 10 * parts:
        grown.extend(part)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2**20 < most < 2**24  # 36 MB are written, at most a part of them at once
    found = grown.array(-1, 2)
    assert (found.dtype, found.shape) == (np.int32, (4_500_000, 2))
    del grown
    assert np.array_equal(found, np.concatenate(10 * parts))
    assert long_texts.GrowingArray().array(-1, 2).shape == (0, 2)


MEASURE = """
import resource
from gmmxlnet.data.tokenizer import encode_texts, load_tokenizer
from gmmxlnet.evaluation.familiarity import unfamiliar_words
tokenizer = load_tokenizer({folder!r})
text = " ".join(f"The baker of house {{n % 5000}} is Anna." for n in range({sentences}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = encode_texts(tokenizer, [text])
unfamiliar_words(text, found, 0, tokenizer.unk_token_id)
print(len(text), len(found.ids), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_grows_by_a_few_bytes_a_character(sample_chunks):
    """12 bytes a token are kept in a file that is mapped; whole texts took 200 bytes a character."""
    code = MEASURE.format(folder=str(sample_chunks / "tokenizer"), sentences=300_000)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    characters, tokens, kibibytes = map(int, done.stdout.split())
    assert characters > 9_000_000
    assert tokens > 2_000_000
    assert 1024 * kibibytes < 12 * tokens + 200 * 2**20
