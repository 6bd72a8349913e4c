"""What the page shows beside its figures: commit, changes, age of the data, and where the model was trained."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from gmmxlnet.devices import processor_kind
from gmmxlnet.options import LOAD
from pipeline import provenance
from pipeline.experiment import Experiment
from pipeline.places import MODEL, TRAINED

CPU = torch.device("cpu")
PARAMETERS = {"dataset.train": "data/train.json", "dataset.dev": "data/dev.json", "dataset_revision": "v2"}
EXPERIMENT = Experiment(parameters=PARAMETERS, data="")
FILES = ["data/train.json", "data/dev.json"]
DAYS = ("2024-03-05", "2025-01-02", "2026-07-08")  # of the first data, their last change, and a commit beside them


def git(*arguments, day=DAYS[0]):
    moment = f"{day}T12:00:00+0000"
    who = {f"GIT_{role}_{name}": "a@b" for role in ("AUTHOR", "COMMITTER") for name in ("NAME", "EMAIL")}
    environment = {**os.environ, **who, "GIT_AUTHOR_DATE": moment, "GIT_COMMITTER_DATE": moment}
    subprocess.run(["git", *arguments], check=True, capture_output=True, env=environment)


def commit(day, **texts):
    for name, text in texts.items():
        (Path("data") / f"{name}.json").write_text(text, encoding="utf-8")
    git("add", ".")
    git("commit", "--allow-empty", "-m", "change", day=day)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository, which is the working directory, with a model, two files of data and a changed output."""
    monkeypatch.chdir(tmp_path)
    for folder in ("data", "reports", MODEL):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dvc.lock").write_text("", encoding="utf-8")
    (tmp_path / MODEL / "fingerprint.json").write_text("{}", encoding="utf-8")
    (tmp_path / "reports" / "metrics.json").write_text("{}", encoding="utf-8")
    git("init", "--quiet")
    commit(DAYS[0], train="[]", dev="[]")
    commit(DAYS[1], dev="[1]")
    commit(DAYS[2])
    for output in ("dvc.lock", "reports/metrics.json", "reports/new.json"):
        (tmp_path / output).write_text("[2]", encoding="utf-8")
    return tmp_path


def head():
    return subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout[:12]


def test_the_commit_is_named_and_outputs_are_no_changes(repository):
    assert f"; commit {head()};" in provenance.here(CPU)
    (repository / "data" / "train.json").write_text("[3]", encoding="utf-8")
    assert f"; commit {head()} with changes;" in provenance.here(CPU)


def test_without_a_repository_there_is_no_commit(repository, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(repository / "none"))
    assert "commit" not in provenance.here(CPU)
    monkeypatch.setenv("PATH", "")
    assert "commit" not in provenance.here(CPU)


def test_processor_threads_and_libraries_are_named(repository, monkeypatch):
    (repository / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Example 9000 @ 2 GHz\n" * 2, encoding="utf-8")
    monkeypatch.setattr(provenance, "CPU_INFO", repository / "cpuinfo")
    told = provenance.here(CPU)
    kind = processor_kind()
    assert f"; Example 9000 @ 2 GHz, {kind}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; torch" in told
    assert f"torch {torch.__version__}, Python 3." in told
    monkeypatch.setattr(provenance, "CPU_INFO", repository / "none")
    assert f", {kind}, " in provenance.here(CPU)


def test_data_in_git_are_as_old_as_their_last_commit(repository):
    assert provenance.newest(FILES) == f"commit of {DAYS[1]}"
    assert provenance.newest(["data/train.json"]) == f"commit of {DAYS[0]}"
    assert provenance.newest(["data"]) == f"commit of {DAYS[1]}"


def test_data_that_git_does_not_have_are_as_old_as_their_files(repository):
    for name, day in (("train", 1_600_000_000), ("dev", 1_500_000_000)):
        (repository / "data" / f"{name}.json").write_text("[4]", encoding="utf-8")
        os.utime(repository / "data" / f"{name}.json", (day, day))
    assert provenance.newest(FILES) == "file of 2020-09-13"
    assert provenance.newest(["data"]) == "file of 2020-09-13"
    assert provenance.newest(["owner/dataset"]) == ""


def test_a_shallow_clone_does_not_know_how_old_its_data_are(repository, monkeypatch):
    git("clone", "--quiet", "--depth", "1", repository.as_uri(), "shallow")
    monkeypatch.chdir(repository / "shallow")
    assert provenance.newest(FILES) == ""


def test_the_training_is_told_of_the_model_that_it_made_and_of_no_other(repository, monkeypatch):
    provenance.write_trained(CPU)
    trained = json.loads(TRAINED.read_text(encoding="utf-8"))["trained"]
    assert provenance.page_facts(EXPERIMENT, CPU)["trained"] == trained
    (repository / MODEL / "fingerprint.json").write_text("{ }", encoding="utf-8")
    assert "not in this folder" in provenance.page_facts(EXPERIMENT, CPU)["trained"]


@pytest.mark.parametrize("damage", ["", "[]", '{"model": 1}', "\udc80", '{"trained": {}, "model": "MODEL"}'])
def test_what_is_damaged_is_as_good_as_absent(repository, damage):
    provenance.write_trained(CPU)
    model = json.loads(TRAINED.read_text(encoding="utf-8"))["model"]
    TRAINED.write_bytes(damage.replace("MODEL", model).encode("utf-8", "surrogateescape"))
    assert "not in this folder" in provenance.page_facts(EXPERIMENT, CPU)["trained"]


def test_data_that_are_made_have_no_age(repository):
    settings = dict.fromkeys(LOAD, 4)
    parameters = {f"dataset.load.{name}": value for name, value in settings.items()}
    (repository / "load world, 4 towns").write_text("", encoding="utf-8")  # no file of theirs
    assert "newest data" not in provenance.page_facts(Experiment(parameters=parameters, data=""), CPU)
    assert "newest data" in provenance.page_facts(EXPERIMENT, CPU)
