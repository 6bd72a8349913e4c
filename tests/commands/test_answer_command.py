"""`gmmxlnet answer` as a person types it."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gmmxlnet.cli import main
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.errors import GMMXLNetError
from gmmxlnet.models.pretrained import read_base

ROOT = Path(__file__).resolve().parents[2]
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


def test_latin_1_makes_no_text_of_binary_data(model, tmp_path, capsys):
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(range(256)) * 40)
    options = ["--question", QUESTION, "--encoding", "latin-1"]
    assert main(["answer", "--model", model, "--document", str(path), *options]) == 1
    assert "is binary data, not text" in capsys.readouterr().err


@pytest.mark.parametrize("option", [[], ["--json"]])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_the_answers_characters(model, tmp_path, monkeypatch, option, encoding):
    text = "Ошибка 東京 \U0001f600 café"
    (tmp_path / "text").write_text(text, encoding="utf-8")
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    options = ["--question", "Où?", "--threshold", "1e9", "--n-best", "50", *option]
    assert main(["answer", "--model", model, "--document", str(tmp_path / "text"), *options]) == 0
    stream.flush()
    shown = stream.buffer.getvalue().decode(encoding)
    if option:
        (answer,) = json.loads(shown)
        assert text in [candidate["text"] for candidate in answer["candidates"]]
    else:
        assert ("東京" in shown) == (encoding == "utf-8")
        assert ("\\u6771" in shown) == (encoding != "utf-8")


def test_what_could_steer_a_terminal_is_escaped(model, tmp_path, capsys):
    (tmp_path / "text").write_text("The host\x1b[31m is \u202eanna\x9b today", encoding="utf-8")
    options = ["--question", "Who\x07?", "--threshold", "1e9", "--n-best", "200"]
    assert main(["answer", "--model", model, "--document", str(tmp_path / "text"), *options]) == 0
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.splitlines())
    assert "\\x1b" in shown
    assert "\\u202e" in shown


@pytest.mark.parametrize(
    ("text", "question", "words"),
    [
        (TEXT, QUESTION, None),
        (
            TEXT,
            "What hymn commemorates Burkina?",
            "of the question's words are not in the model's vocabulary (What, hymn",
        ),
        ("旗は赤い。" * 3, QUESTION, "100% of the document's words"),
    ],
)
def test_an_answer_about_words_it_never_saw_is_explained(model, tmp_path, capsys, text, question, words):
    (tmp_path / "text").write_text(text, encoding="utf-8")
    options = ["--document", str(tmp_path / "text"), "--question", question, "--threshold", "1e9"]
    assert main(["answer", "--model", model, *options]) == 0
    shown = capsys.readouterr().out
    assert ("warning: " in shown) == (words is not None)
    assert words is None or words in shown


def test_words_for_a_reader(model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    options = ["--document", "-", "--question", QUESTION, "--n-best", "2"]
    assert main(["answer", "--model", model, *options, "--threshold", "1e9"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Q: {QUESTION}\nA: ")
    assert "segment 1 of 1, probability" in shown
    assert shown.count("score") == 2


def test_json_shows_what_is_invisible_and_says_the_same(model, tmp_path, capsys):
    text, question = "The baker is A\u202ena\x9b today. " * 3, "Who\u2066 is\u009b the\x1b baker?"
    (tmp_path / "text").write_text(text, encoding="utf-8")
    options = ["--document", str(tmp_path / "text"), "--question", question, "--threshold", "1e9", "--n-best", "9"]
    assert main(["answer", "--model", model, *options, "--json"]) == 0
    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    (found,) = json.loads(shown)
    assert found["question"] == question
    assert all(
        each["text"] == text[each["char_start"] : each["char_end"]] for each in found["candidates"] if each["text"]
    )


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_settings_file_of_60_mib_is_refused_before_it_is_read(model, document, tmp_path, capsys, name):
    shutil.copytree(model, tmp_path / "model")
    with (tmp_path / "model" / name).open("w") as file:
        file.write('{"a": "')
        file.truncate(60 * 2**20)
    started = time.process_time()
    options = ["--document", document, "--question", QUESTION]
    assert main(["answer", "--model", str(tmp_path / "model"), *options]) == 1
    assert time.process_time() - started < 5
    line = capsys.readouterr().err.splitlines()[-1]
    assert name in line
    assert "bytes" in line
    for load in (load_tokenizer, lambda folder: read_base(folder, None)):
        if load is load_tokenizer or name == "config.json":
            with pytest.raises(GMMXLNetError, match=f"{name}: is no regular file, or has more than"):
                load(str(tmp_path / "model"))


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
        ({"--n-best": "0"}, "--n-best must be an integer from 1 to 10,000, not 0"),
        ({"--n-best": "1" + "0" * 30}, "--n-best must be an integer from 1 to 10,000, not 1000000"),
        ({"--n-best": "9" * 5000}, "--n-best must be an integer from 1 to 10,000, not 99999"),
        ({"--n-best": "two"}, "--n-best must be an integer from 1 to 10,000, not two"),
        ({"--encoding": "punycode"}, "--encoding punycode: there is no such encoding of texts, or none that this"),
        ({"--encoding": "rot13"}, "--encoding rot13: there is no such encoding of texts"),
        ({"--encoding": "undefined"}, "--encoding undefined: there is no such encoding of texts"),
        ({"--threshold": "nan"}, "--threshold nan: must be a finite number"),
        (
            {"--threshold": "inf"},
            "--threshold inf: must be a finite number; 1e9 answers always, --threshold=-1e9 never",
        ),
        ({"--threshold": "/dev/null"}, "--threshold /dev/null: is no regular file"),
        ({"--question": "Who \udcff?"}, "--question 1 of 1: character 4 is byte 0xff, which is not UTF-8"),
        ({"--question": "Who " * 60}, "question 1 of 1 has 60 tokens; a segment of 48 has room for at most"),
    ],
)
def test_mistakes_are_one_line_and_status_1(model, document, capsys, changes, words):
    document_bytes = TEXT + "!"  # an odd number of bytes is no UTF-16
    with open(document, "w", encoding="utf-8") as stream:
        stream.write(document_bytes)
    options = {"--model": model, "--document": document, "--question": QUESTION, **changes}
    assert main(["answer", *(part for pair in options.items() for part in pair)]) == 1
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert said.out == ""
    assert words in line
    assert line.startswith("gmmxlnet answer: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "is nested too deeply"),
        ('{"a": ' * 5_000 + "1" + "}" * 5_000, "is nested too deeply"),
        ('{"null_score_diff_threshold": NaN}', "holds NaN"),
        ('{"null_score_diff_threshold": true}', "has no null_score_diff_threshold"),
        ('{"null_score_diff_threshold": "1"}', "has no null_score_diff_threshold"),
        ('["null_score_diff_threshold"]', "has no null_score_diff_threshold"),
        ("x", "cannot be read"),
    ],
)
def test_a_threshold_file_that_holds_none(model, document, tmp_path, capsys, content, words):
    (tmp_path / "metrics.json").write_text(content, encoding="utf-8")
    options = ["--document", document, "--question", QUESTION, "--threshold", str(tmp_path / "metrics.json")]
    assert main(["answer", "--model", model, *options]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert line.endswith("name the metrics.json of the evaluate stage")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_in_a_models_folder_is_refused_before_it_is_read(model, document, tmp_path, capsys, name):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert main(["answer", "--model", str(folder), "--document", document, "--question", QUESTION]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{name}: is no regular file, and reading it might never end" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"caf\xe9 noir", "byte 3 is not utf-8; name the encoding, such as --encoding latin-1"),
        (TEXT.encode("utf-16"), "byte 0 is not utf-8; name the encoding, such as --encoding utf-16"),
        ("Сегодня флаг".encode("cp1251"), "byte 0 is not utf-8; name the encoding"),
        ("旗は赤い。".encode("shift-jis"), "byte 0 is not utf-8; name the encoding"),
        (b"%PDF-1.7\n%\xe2\xe3", "is a PDF, not plain text; make text of it: pdftotext "),
        (
            b"PK\x03\x04\x14\x00word/document.xml",
            "as .docx, .odt and .epub files are, not plain text; make text of it: pandoc",
        ),
        (b"{\\rtf1 x}", "is rich text (RTF), not plain text"),
        (b"\x1f\x8b\x08\x00", "is compressed by gzip, not plain text; make text of it: gunzip -c"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG picture, not text"),
        (bytes(range(256)) * 4, "is binary data, not text, whatever the encoding"),
        (bytes(range(1, 128)), "is binary data, not text, whatever the encoding"),
        (b"The flag\0is red", "is binary data"),
    ],
)
def test_documents_that_cannot_be_read(model, tmp_path, capsys, content, words):
    path = tmp_path / "text"
    path.write_bytes(content)
    assert main(["answer", "--model", model, "--document", str(path), "--question", QUESTION]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("signum", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
@pytest.mark.parametrize("seconds", [0.0, 4.0])
def test_a_signal_ends_it_with_one_line(model, signum, name, seconds):
    """At once, while torch is imported, and later, when it waits for the document."""
    command = [sys.executable, "-c", "import gmmxlnet.cli as c, sys; print('!', flush=True); sys.exit(c.main())"]
    options = ["answer", "--model", model, "--document", "-", "--question", QUESTION]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, *options], cwd=ROOT, **pipes) as process:
        process.stdout.readline()
        time.sleep(0.1 + seconds)
        process.send_signal(signum)
        assert process.wait(60) == 128 + signum
        assert process.stderr.read() == f"gmmxlnet answer: stopped by {name}\n"
