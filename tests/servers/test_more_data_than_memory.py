"""A dataset of 1.5 GB, in parts, goes through chunk, train and evaluate in processes that may hold 1 GB of it all.

The limit (RLIMIT_DATA) counts what a program allocates, and not the files that it maps.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from tests.small_repository import environment

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.servers, pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's RLIMIT_DATA")]
LIMIT = 2**30  # bytes
NUM_PARTS, CONTEXTS_A_PART, WORDS, QUESTIONS = 36, 500, 15_000, 4
SMALL = {"n_layer": 1, "d_model": 16, "n_head": 2, "d_inner": 16}


def write_part(path, number, num_contexts):
    """SQuAD records of long texts in random words of a vocabulary that all parts share."""
    rng = np.random.default_rng([18, number])
    vocabulary = np.array([f"w{word}" for word in range(3_000)])
    paragraphs = []
    for context in range(num_contexts):
        words = vocabulary[rng.integers(0, len(vocabulary), WORDS)]
        text, starts = " ".join(words), np.concatenate(([0], np.cumsum([len(word) + 1 for word in words])))
        qas = []
        for question in range(QUESTIONS):
            place = int(rng.integers(0, WORDS - 1))
            answer = {"text": str(words[place + 1]), "answer_start": int(starts[place + 1])}
            asked = f"What follows {words[place]} at {place}?"
            record = {"id": f"{number}-{context}-{question}", "question": asked, "answers": [answer]}
            qas.append(record | {"is_impossible": False})
        paragraphs.append({"context": text, "qas": qas})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": f"{number}", "paragraphs": paragraphs}]}))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    (folder / "dataset" / "train").mkdir(parents=True)
    for number in range(NUM_PARTS):
        write_part(folder / "dataset" / "train" / f"{number:03}.json", number, CONTEXTS_A_PART)
    write_part(folder / "dataset" / "dev.json", NUM_PARTS, 2)
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params |= {"device": "cpu", "memory_num_tokens": 2}
    profile = {"dataset": str(folder / "dataset"), "max_seq_length": 384, "doc_stride": 64, "max_question_length": 32}
    profile |= {"scratch_size": SMALL, "batch_size": 2, "max_steps": 2, "calibration_fraction": 0.0002}
    params["profiles"]["sample"] |= profile
    yaml.dump(params, folder / "params.yaml")
    return folder


def stage(folder, name):
    """Run a stage below the limit; returns the most memory that it had, mapped files included."""
    told = environment(PYTHONPATH=str(ROOT), DVC_ROOT=str(folder), MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"pipeline.{name}"],
            cwd=folder,
            env=told,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT)),
        )
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, (folder / f"{name}.log").read_text()
    print(f"{name}: {usage.ru_utime + usage.ru_stime:.0f} s of processor time, {usage.ru_maxrss / 2**10:.0f} MiB")


def test_it_goes_through_all_stages_below_the_limit(workspace):
    size = sum(file.stat().st_size for file in (workspace / "dataset").rglob("*.json"))
    assert size > 1.2 * LIMIT
    for name in ("chunk", "train", "evaluate"):
        stage(workspace, name)
    chunks = sum(file.stat().st_size for file in (workspace / "data" / "chunks").rglob("*"))
    print(f"dataset {size / 2**20:.0f} MiB, chunks {chunks / 2**20:.0f} MiB")
    assert chunks > 2 * LIMIT
    report = json.loads((workspace / "reports" / "data.json").read_text())
    assert report["train"]["documents"] + report["calibration"]["documents"] == NUM_PARTS * CONTEXTS_A_PART * QUESTIONS
    assert report["calibration"]["documents"] > 0
    assert json.loads((workspace / "reports" / "metrics.json").read_text())["total"] == 2 * QUESTIONS
