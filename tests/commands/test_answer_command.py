"""`gmmxlnet answer` as a person types it."""

import io
import json
import sys

import pytest

from gmmxlnet.cli import main

TEXT = "Report 3. The flag is red today. The baker is Clara. Under red the host is Anna."
QUESTION = "Who is the baker?"


@pytest.fixture
def model(sample_checkpoint):
    return str(sample_checkpoint)


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "report.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def test_json_holds_every_question(model, document, capsys):
    asked = ["--question", QUESTION, "--question", "Who is the host?", "--json", "--n-best", "3", "--threshold", "1e9"]
    assert main(["answer", "--model", model, "--document", document, *asked]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["question"] for answer in answers] == [QUESTION, "Who is the host?"]
    for answer in answers:
        assert answer["text"] == TEXT[answer["char_start"] : answer["char_end"]]
        assert len(answer["candidates"]) == 3
        assert {"text", "char_start", "char_end", "segment", "score", "probability"} == set(answer["candidates"][0])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_a_byte_order_mark_is_no_part_of_the_text(model, tmp_path, capsys, encoding):
    path = tmp_path / "report.txt"
    path.write_text("É " + TEXT, encoding=encoding)
    decoded = "utf-8" if encoding.startswith("utf-8") else encoding
    options = ["--question", QUESTION, "--json", "--threshold", "1e9", "--encoding", decoded]
    assert main(["answer", "--model", model, "--document", str(path), *options]) == 0
    answer = json.loads(capsys.readouterr().out)[0]
    assert answer["text"] == ("É " + TEXT)[answer["char_start"] : answer["char_end"]]


def test_words_for_a_reader(model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    options = ["--document", "-", "--question", QUESTION, "--n-best", "2"]
    assert main(["answer", "--model", model, *options, "--threshold", "1e9"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Q: {QUESTION}\nA: ")
    assert "segment 1 of 1, probability" in shown
    assert shown.count("score") == 2


def test_no_answer_in_words_and_the_threshold_of_a_report(model, document, tmp_path, capsys):
    report = tmp_path / "metrics.json"
    report.write_text(json.dumps({"null_score_diff_threshold": -1e9}), encoding="utf-8")
    options = ["--document", document, "--question", QUESTION, "--threshold", str(report)]
    assert main(["answer", "--model", model, *options]) == 0
    assert "A: (no answer: null odds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--document": "nowhere.txt"}, "document nowhere.txt: cannot be read (No such file or directory)"),
        ({"--model": "models/not/there"}, "model 'models/not/there': there is no such folder; name a folder that"),
        ({"--threshold": "nowhere.json"}, "--threshold nowhere.json: neither a number nor a file to read"),
        ({"--encoding": "utf-99"}, "--encoding utf-99: there is no such encoding"),
        ({"--encoding": "utf-16"}, "is not utf-16; name the encoding"),
        ({"--n-best": "0"}, "--n-best must be an integer >= 1, not 0"),
        ({"--question": "Who " * 60}, "question 1 of 1 has 60 tokens; a segment of 48 has room for at most"),
    ],
)
def test_mistakes_are_one_line_and_status_1(model, document, capsys, changes, words):
    document_bytes = TEXT + "!"  # an odd number of bytes is no UTF-16
    with open(document, "w", encoding="utf-8") as stream:
        stream.write(document_bytes)
    options = {"--model": model, "--document": document, "--question": QUESTION, **changes}
    assert main(["answer", *(part for pair in options.items() for part in pair)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in lines[-1]
    assert lines[-1].startswith("gmmxlnet answer: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"caf\xe9 noir", "byte 3 is not utf-8; name the encoding, such as --encoding latin-1"),
        (TEXT.encode("utf-16"), "byte 0 is not utf-8; name the encoding, such as --encoding utf-16"),
    ],
)
def test_documents_that_cannot_be_read(model, tmp_path, capsys, content, words):
    path = tmp_path / "text"
    path.write_bytes(content)
    assert main(["answer", "--model", model, "--document", str(path), "--question", QUESTION]) == 1
    assert words in capsys.readouterr().err
