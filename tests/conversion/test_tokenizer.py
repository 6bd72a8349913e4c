"""Renamed tokenizers: WordPiece, BPE and Unigram, loaded again by AutoTokenizer alone."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gmmxlnet.conversion.tokenizer import renamed_tokenizer
from gmmxlnet.data.tokenizer import encode_texts
from gmmxlnet.errors import DataError

BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
LETTERS = "abcdefghijklmnopqrstuvwxyz."


def tokenizer_of(model, names, normalizer=None):
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if normalizer is not None:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{name}_token": token for name, token in names.items()}
    )


def wordpiece_of(names=BERT):
    pieces = [*names.values(), *LETTERS, *(f"##{letter}" for letter in LETTERS), "frederic", "play", "##ed"]
    model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token=names["unk"])
    return tokenizer_of(model, names, normalizers.BertNormalizer())


def bpe_of(names=ROBERTA):
    pieces = [*names.values(), *LETTERS, "pl", "ay", "play"]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)}, [("p", "l"), ("a", "y"), ("pl", "ay")], unk_token=names["unk"]
    )
    return tokenizer_of(model, names)


def unigram_of(names=ROBERTA):
    pieces = [*((token, 0.0) for token in names.values()), *((letter, -5.0) for letter in LETTERS), ("play", -2.0)]
    return tokenizer_of(models.Unigram(pieces, unk_id=1), names)


@pytest.mark.parametrize("make", [wordpiece_of, bpe_of, unigram_of])
def test_ids_stay_and_names_and_layout_change(make, tmp_path):
    before = make()
    renamed_tokenizer(before, 64).save_pretrained(tmp_path)
    after = AutoTokenizer.from_pretrained(tmp_path)
    assert (after.padding_side, after.model_max_length, len(after)) == ("left", 64, len(before))
    for name in BERT:
        assert getattr(after, f"{name}_token") == f"<{name}>"
        assert getattr(after, f"{name}_token_id") == getattr(before, f"{name}_token_id")
    text = "frederic played."
    plain = before(text, add_special_tokens=False).input_ids
    assert len(plain) > 2
    assert after(text, add_special_tokens=False).input_ids == plain
    cls, sep, pad = after.cls_token_id, after.sep_token_id, after.pad_token_id
    pair = after(text, "a", padding="max_length", max_length=len(plain) + 6)
    answer = before("a", add_special_tokens=False).input_ids
    room = len(plain) + 6 - len(plain) - len(answer) - 3
    assert pair.input_ids == [pad] * room + [*plain, sep, *answer, sep, cls]
    types = [0] * (len(plain) + 1) + [1] * (len(answer) + 1) + [2]
    assert pair.token_type_ids[room:] == types
    assert pair.attention_mask == [0] * room + [1] * len(types)


def test_offsets_point_into_the_text_as_it_was_written(tmp_path):
    renamed_tokenizer(wordpiece_of(), 64).save_pretrained(tmp_path)
    after = AutoTokenizer.from_pretrained(tmp_path)
    text = "  Frédéric   PLAYED"
    encoded = after(text, add_special_tokens=False, return_offsets_mapping=True)
    assert [text[a:b] for a, b in encoded.offset_mapping] == ["Frédéric", "PLAY", "ED"]
    texts = encode_texts(after, [text, "a <sep> b"])
    assert texts.ids.tolist()[:3] == encoded.input_ids
    assert after.sep_token_id not in texts.ids  # no text forges the structure of a segment


def test_a_name_that_is_taken_is_refused():
    names = {**ROBERTA, "cls": "<s>"}
    backend = models.WordPiece(
        {piece: i for i, piece in enumerate([*names.values(), *LETTERS, "<cls>"])}, unk_token="<unk>"
    )
    with pytest.raises(DataError, match="<cls> is another token already than <s>"):
        renamed_tokenizer(tokenizer_of(backend, names), 64)
