"""Answers in fifteen languages have labels: with a vocabulary made from the text, and with a multilingual tokenizer.

`docs/languages.md` holds the table that these figures are from.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gmmxlnet.data.chunks import ChunkSettings, build_chunks
from gmmxlnet.data.labels import label_documents
from gmmxlnet.data.statistics import notes, warnings
from gmmxlnet.data.tokenizer import encode_texts, load_tokenizer, scratch_tokenizer
from tests.data.languages import PARALLEL, decomposed

SENTENCES = [text for parallel in PARALLEL.values() for text, _ in parallel]
FORMS = {"composed": lambda parallel: parallel, "decomposed": decomposed}
UNSPACED = Regex(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]\p{M}*")


def unigram(pre_tokenizer: pre_tokenizers.PreTokenizer) -> PreTrainedTokenizerFast:
    """A multilingual Unigram tokenizer as XLM-R's is made (NFKC, accents kept), of the sentences themselves."""
    special = {"unk_token": "<unk>", "sep_token": "<sep>", "pad_token": "<pad>", "cls_token": "<cls>"}
    backend = Tokenizer(models.Unigram())
    backend.normalizer, backend.pre_tokenizer = normalizers.NFKC(), pre_tokenizer
    trainer = trainers.UnigramTrainer(
        vocab_size=500, max_piece_length=4, special_tokens=[*special.values()], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **special)


def lost(tokenizer: PreTrainedTokenizerFast, parallel: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    """The answers that no token span expresses."""
    texts = [text for text, _ in parallel]
    marked = [(number, answer) for number, (_, answers) in enumerate(parallel) for answer in answers]
    golds = [[(answer, texts[number].index(answer))] for number, answer in marked]
    labels_A2 = label_documents(encode_texts(tokenizer, texts), texts, [number for number, _ in marked], golds)
    return [answer for (_, answer), (first, _) in zip(marked, labels_A2.tolist(), strict=True) if first < 0]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(UNSPACED, "isolated"), pre_tokenizers.Metaspace()])
    return {
        "scratch": scratch_tokenizer(SENTENCES),
        "unigram": unigram(pre_tokenizers.Metaspace()),
        "unigram, scripts without spaces split": unigram(split),
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("language", PARALLEL)
def test_no_answer_is_lost(tokenizers, language: str, form: str) -> None:
    found = {name: lost(tokenizer, FORMS[form](PARALLEL[language])) for name, tokenizer in tokenizers.items()}
    plain = found.pop("unigram")
    assert not any(found.values()), found
    if language not in ("Thai", "Chinese", "Japanese"):  # where its pieces may cross the ends of words
        assert plain == []


def test_xlnets_own_tokenizer_loses_none_where_words_have_spaces(shared_folder: Path) -> None:
    tokenizer = load_tokenizer(str(shared_folder / "xlnet-base-cased"))
    for form in FORMS.values():
        counts = {language: len(lost(tokenizer, form(parallel))) for language, parallel in PARALLEL.items()}
        assert {language for language, count in counts.items() if count} == {"Thai", "Chinese", "Japanese", "Korean"}


def write_language(folder: Path, language: str) -> None:
    """A SQuAD folder of a language's sentences, the same for training and evaluation."""
    paragraphs = []
    for number, (text, answers) in enumerate(PARALLEL[language]):
        asked = [
            {
                "id": f"{number}-{i}",
                "question": f"{i}?",
                "answers": [{"text": answer, "answer_start": text.index(answer)}],
            }
            for i, answer in enumerate(answers)
        ]
        paragraphs.append({"context": text, "qas": asked})
    for name in ("train", "dev"):
        (folder / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")


def report_of(folder: Path, tokenizer: str, calibration_fraction: float = 0.2) -> dict:
    settings = ChunkSettings(
        dataset=str(folder),
        tokenizer=tokenizer,
        max_seq_length=40,
        doc_stride=4,
        memory_num_tokens=2,
        max_question_length=1,
        calibration_fraction=calibration_fraction,
        seed=0,
    )
    return build_chunks(settings, folder / "chunks")


def test_a_tokenizer_that_swallows_answers_is_warned_of(tmp_path: Path, tokenizers) -> None:
    """Its pieces are whole clauses, as of a vocabulary made for words with spaces between them."""
    write_language(tmp_path, "Chinese")
    clauses = [piece for text, _ in PARALLEL["Chinese"] for piece in re.split(r"\W", text) if piece]
    vocabulary = [(token, 0.0) for token in ("<unk>", "<sep>", "<pad>", "<cls>")] + [("▁", -20.0)]
    vocabulary += [(f"▁{clause}", -1.0) for clause in clauses] + [(clause, -1.0) for clause in clauses]
    vocabulary += [(character, -20.0) for character in sorted({c for text, _ in PARALLEL["Chinese"] for c in text})]
    vocabulary += [(f"filler{number}", -20.0) for number in range(40)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    named = {"unk_token": "<unk>", "sep_token": "<sep>", "pad_token": "<pad>", "cls_token": "<cls>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **named).save_pretrained(
        tmp_path / "clauses"
    )

    said = warnings(report_of(tmp_path, str(tmp_path / "clauses")))
    assert len(said) == 3
    assert "of 3 calibration answers (100%)" in said[1]
    assert "12 of 12 dev answers (100%) begin or end inside a token" in said[2]
    assert "set tokenizer to scratch" in said[2]
    assert warnings(report_of(tmp_path, "scratch", calibration_fraction=0)) == []


def test_what_was_cut_is_said(tmp_path: Path) -> None:
    write_language(tmp_path, "English")
    said = notes(report_of(tmp_path, "scratch"))  # "0?" has two tokens, and one is left
    assert said[0] == "9 of 9 train questions are cut to 1 tokens (max_question_length)"
    assert "12 of 12 dev questions are cut" in said[2]
    assert said[3].startswith("calibration on 3 questions: too few")
    assert len(said) == 4
    assert np.all([note.isprintable() for note in said])
