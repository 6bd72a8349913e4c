"""Encoding by words gives what encoding whole texts gives, whatever the text; where it would not, it is not used."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers
from transformers import XLNetTokenizerFast

from gmmxlnet.data.tokenizer import encode_texts, encode_whole, load_tokenizer, scratch_tokenizer
from gmmxlnet.data.word_encoding import encode_by_words, encodes_words_alone

SHARED = Path(__file__).parents[3] / "shared"
SAMPLE = Path(__file__).parents[2] / "data/sample/dev.json"
ODD = [
    "",
    " ",
    "a  b ",
    "\tx\n\ny\r\n z",
    "a \u0301 b",  # a combining accent on a space
    "\u0301a b\u0308",
    "½ … ﬁne \u00b4x \u00a8 y",  # decompose, some to a space and an accent
    "<sep> a<cls>b <s> c",
    "``quoted'' ''",
    "東京 は\u3000日本\u00a0の \u200d 👩\u200d👩 x",
    "किताब \u0903 \u0d4eക",  # marks that take space, and one that joins what follows
    "\ud7ff \ufeff\u0600 1 \u0600",
    "Straße I\u0130 ΑΣ Σ",
]


@pytest.fixture(scope="module")
def scratch():
    return scratch_tokenizer([*ODD, "the quick brown fox"]).backend_tokenizer


@pytest.fixture(scope="module", params=["scratch", "xlnet"])
def backend(request):
    if request.param == "scratch":
        return request.getfixturevalue("scratch")
    if not (SHARED / "xlnet-base-cased").is_dir():
        pytest.skip("needs ../shared/xlnet-base-cased")
    return load_tokenizer(str(SHARED / "xlnet-base-cased")).backend_tokenizer


def assert_same(backend, texts):
    assert encodes_words_alone(backend, texts)
    for expected, got in zip(encode_whole(backend, texts), encode_by_words(backend, texts), strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype


def test_odd_texts(backend):
    assert_same(backend, ODD)
    assert_same(backend, [" ".join(ODD), "\n".join(ODD)])
    assert_same(backend, [])


def test_the_sample(backend):
    paragraphs = [p for article in json.loads(SAMPLE.read_text())["data"] for p in article["paragraphs"]]
    assert_same(backend, [p["context"] for p in paragraphs] + [q["question"] for p in paragraphs for q in p["qas"]])


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\u0301ab."), max_size=20)))
def test_any_text(backend, texts):
    if encodes_words_alone(backend, texts):  # not where <mask> is spelled out
        assert_same(backend, texts)


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda backend: setattr(backend, "normalizer", normalizers.Strip()),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.WhitespaceSplit()),
    ],
    ids=["no split at white space", "a normalizer that sees ends", "no mark before words"],
)
def test_another_kind_of_tokenizer_encodes_whole_texts(change):
    tokenizer = XLNetTokenizerFast(vocab=[("<unk>", 0.0), ("▁", -1.0), ("a", -2.0), ("b", -2.0)])
    change(tokenizer.backend_tokenizer)
    texts = ["a b", " ab"]
    assert not encodes_words_alone(tokenizer.backend_tokenizer, texts)
    expected = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    np.testing.assert_array_equal(encode_texts(tokenizer, texts).ids, [i for e in expected for i in e.ids])


def test_a_token_that_takes_the_space_before_it_is_met_in_whole_texts():
    tokenizer = scratch_tokenizer(["a b"])
    tokenizer.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True)})
    assert not encodes_words_alone(tokenizer.backend_tokenizer, ["b", "a <mask> b"])
    assert encodes_words_alone(tokenizer.backend_tokenizer, ["b", "a <sep> b"])
