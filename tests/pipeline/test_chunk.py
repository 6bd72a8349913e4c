"""Stage chunk: parameters in, chunks and report out; bad data ends with one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.load import LoadWorld, articles
from pipeline.chunk import chunk_settings
from pipeline.experiment import folder_hash
from pipeline.params import load_params

ROOT = Path(__file__).resolve().parents[2]
LOAD = "num_towns:2,num_updates:0,lag:1,town_with_list:true,segment_tokens:42,num_train:20,num_dev:3"
WORLD = LoadWorld(num_towns=2, lag=1, town_with_list=True, segment_tokens=42)


def squad(num_articles: int) -> str:
    data = []
    for number in range(num_articles):
        answers = [{"text": "Oslo", "answer_start": 14}]
        questions = [
            {"id": f"{number}a", "question": "Where?", "answers": answers, "is_impossible": False},
            {"id": f"{number}b", "question": "Who?", "answers": [], "is_impossible": True},
        ]
        data.append({"title": "T", "paragraphs": [{"context": f"Anna lives in Oslo {number}.", "qas": questions}]})
    return json.dumps({"version": "v2.0", "data": data})


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An empty working directory with the repository's parameters and a tiny sample."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    folder = tmp_path / "data" / "sample"
    folder.mkdir(parents=True)
    (folder / "train.json").write_text(squad(20))
    (folder / "dev.json").write_text(squad(5))
    return tmp_path


def run(workspace: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "pipeline.chunk"]
    return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=120)


def test_chunks_and_report_are_written(workspace: Path) -> None:
    done = run(workspace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("chunk: train ")
    report = json.loads((workspace / "reports" / "data.json").read_text())
    assert report["dev"]["documents"] == len(Documents.open(workspace / "data" / "chunks", "dev")) == 10
    assert report["train"]["documents"] + report["calibration"]["documents"] == 40


def test_bad_data_ends_with_a_line_for_each_fault_and_leaves_nothing(workspace: Path) -> None:
    (workspace / "data" / "sample" / "train.json").write_text(
        squad(20).replace('"answer_start": 14', '"answer_start": 3')
    )
    done = run(workspace)
    assert done.returncode == 1
    assert done.stderr.startswith("chunk: ")
    assert len(done.stderr.splitlines()) == 20
    assert "set it to 14" in done.stderr
    assert not (workspace / "data" / "chunks").exists()
    assert not (workspace / "reports").exists()


def test_a_queued_experiment_makes_the_same_chunks(workspace: Path) -> None:
    """It runs in a copy below .dvc/tmp, where `../texts` is elsewhere; the name goes into the chunks, not the place."""
    (workspace / "data" / "sample").rename(workspace / "texts")
    text = (workspace / "params.yaml").read_text(encoding="utf-8").replace("data/sample ", "../texts ", 1)
    (workspace / "params.yaml").unlink()
    main, copy = workspace / "main", workspace / "main" / ".dvc" / "tmp" / "exps" / "tmp1"
    for folder in (main, copy):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "params.yaml").write_text(text, encoding="utf-8")
        done = run(folder, DVC_ROOT=str(main))
        assert done.returncode == 0, done.stderr
    assert folder_hash(copy / "data" / "chunks") == folder_hash(main / "data" / "chunks")
    assert (copy / "reports" / "data.json").read_bytes() == (main / "reports" / "data.json").read_bytes()


def test_a_generated_dataset_needs_no_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    apply_overrides(
        tmp_path / "params.yaml", [f"profiles.sample.dataset={{load:{{{LOAD}}}}}", "profiles.sample.max_seq_length=64"]
    )
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "reports" / "data.json").read_text())
    assert report["settings"]["dataset"]["load"]["num_towns"] == 2
    documents = Documents.open(tmp_path / "data" / "chunks", "dev")
    assert report["dev"]["documents"] == len(documents) == 3 * 7
    assert documents.context_text(0) == next(articles(WORLD, "dev", 1))["paragraphs"][0]["context"]
    assert documents.question_type(0) == "cross_load2_lag1"


def test_every_profile_gives_settings() -> None:
    params = load_params(ROOT / "params.yaml")
    for name in params.profiles:
        settings = chunk_settings(params.model_copy(update={"profile": name}))
        assert settings.max_seq_length == params.profiles[name].max_seq_length
