"""Every command that README, CONTRIBUTING and docs/ show works: its target, options, parameters and paths exist."""

import io
import os
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from dvc.cli import parse_args
from ruamel.yaml import YAML

from gmmxlnet.cli import COMMANDS, make_parser
from gmmxlnet.data.documents import Documents
from pipeline.params import load_params

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = [README] + [
    file.read_text(encoding="utf-8") for file in (ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SECTIONS = [section for text in TEXTS for section in re.split(r"^## ", text, flags=re.MULTILINE)]
PROGRAMS = ("make", "dvc", "gmmxlnet", "python", "pre-commit", "pip", "accelerate")


def commands(text):
    """All commands in indented blocks and in inline code, split as the shell would: lists of words."""
    joined = re.sub(r"\$SLURM_\w+", "13", text.replace("\\\n", " "))
    blocks = re.findall(r"^ {4}(\S.*)$", joined, flags=re.MULTILINE)
    lines = blocks + [code for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", joined) if code.split()[0] in PROGRAMS]
    lines += [code for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", joined) if re.match(r"[A-Z_]+=\S+ ", code)]
    parts = [part for line in lines for part in re.split(r"\s(?:&&|\|)\s", re.sub(r"\s#.*", "", line))]
    found = [shlex.split(re.sub(r"^[A-Z_]+=\S+ ", "", part)) for part in parts]
    return [words for words in found if len(words) > 1 and words[0] in PROGRAMS]


def changes(words):
    """The overrides of a `dvc exp run`: pairs of key and value."""
    return [tuple(after.split("=", 1)) for option, after in pairwise(words) if option == "-S"]


@pytest.mark.parametrize("words", commands("\n".join(TEXTS)), ids=lambda words: " ".join(words)[:60])
def test_programs_know_the_command(words):
    program, *rest = words
    if program == "make":
        targets = [word for word in rest if "=" not in word]
        assert all(re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE) for target in targets)
        assert all(re.search(rf"^{word.split('=')[0]} \?=", MAKEFILE, flags=re.M) for word in rest if "=" in word)
    elif program == "dvc":
        parse_args(rest)  # exits where dvc does not know an option
    elif program == "gmmxlnet" and len(rest) == 1:
        assert rest[0] in COMMANDS  # a command is spoken of
    elif program == "gmmxlnet":
        make_parser(rest).parse_args(rest)
    elif program == "accelerate":
        launched = launch_command_parser().parse_args(rest[1:])
        assert rest[0] == "launch"
        assert launched.config_file is None or load_config_from_file(str(ROOT / launched.config_file)).num_processes > 1
        assert (ROOT / f"{launched.training_script.replace('.', '/')}.py").is_file()
    elif program == "python":
        assert rest[0] == "-m" or (ROOT / rest[0]).is_file()
    else:
        assert rest[0] == "install"


def test_commands_of_every_kind_are_found():
    assert {words[0] for words in commands(README)} >= {"make", "dvc", "gmmxlnet", "pip"}
    assert ["dvc", "queue", "start"] in commands(README)


@pytest.mark.parametrize("section", [section for section in SECTIONS if "dvc exp run" in section])
def test_parameters_are_accepted(section, tmp_path):
    yaml = YAML()
    values = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for words in commands(section):
        if words[:3] != ["dvc", "exp", "run"]:
            continue
        assert changes(words)
        for key, value in changes(words):
            *above, name = key.split(".")
            place = values
            for part in above:
                place = place[part]
            assert name in place, key
            place[name] = yaml.load(value if value[0] in "[{" else value.split(",")[-1])
        stream = io.StringIO()
        yaml.dump(values, stream)
        (tmp_path / "params.yaml").write_text(stream.getvalue(), encoding="utf-8")
        load_params(tmp_path / "params.yaml")


MADE = (  # by a stage, or by a command that the README names beside it
    (ROOT / "dvc.yaml").read_text(encoding="utf-8"),
    *("reports/throughput.csv", "reports/provenance.js"),
    *("reports/comparison.md", "reports/benchmarks.md", "reports/memory.csv"),
    *("reports/gpu/benchmarks.md", "data/corpus", "models/encoder/pretraining.json", "models/.encoder.resume"),
    *("reports/long-documents.md", "reports/long-documents/", "reports/real-text.md", "reports/capacity.md"),
    *("reports/reader.md", "models/reader", "models/converted/plan-….json"),
)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.splitlines()[0])
def test_files_that_are_named_exist_or_are_made(text):
    folders = "reports|docs|examples|data|pipeline|gmmxlnet|tests|models|scripts|benchmarks"
    for path in re.findall(rf"`((?:{folders})/[^`\s<]*)`", text):
        assert any(path.rstrip("/") in made for made in MADE) or (ROOT / path).exists(), path
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert list((ROOT / "tests").rglob(name)), name
    for target in re.findall(r"\]\(([^)#:]+\.md)\)", text):
        assert any((folder / target).exists() for folder in (ROOT, ROOT / "docs")), target


def test_python_in_the_readme_runs(make_model, sample_chunks, sample_tokenizer, tmp_path, monkeypatch, capsys):
    """On a small model where the README has the trained one, and a text of the sample's kind."""
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    model = make_model()
    model.save_pretrained(tmp_path / "models" / "gmm")
    sample_tokenizer.save_pretrained(tmp_path / "models" / "gmm")
    text = Documents.open(sample_chunks, "dev").context_text(0)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "report.txt").write_text(text, encoding="utf-8")
    exec(compile(code, os.fspath(ROOT / "README.md"), "exec"), {})
    assert capsys.readouterr().out.strip()
