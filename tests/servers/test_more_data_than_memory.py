"""A dataset in parts that is larger than memory goes through chunk, train and evaluate.

The limit of each stage (RLIMIT_DATA) counts what a program allocates, torch included, and not the files that it maps.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gmmxlnet.data.tokenizer import scratch_tokenizer
from scripts.small_model import shrink
from tests.small_repository import environment

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.servers, pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's RLIMIT_DATA")]
LIMITS = {"chunk": 768 * 2**20, "train": 2**30, "evaluate": 2**30}  # bytes
NUM_PARTS, CONTEXTS_A_PART, WORDS, QUESTIONS = 48, 250, 15_000, 4
VOCABULARY = [f"w{word}" for word in range(3_000)]


def random_texts():
    """Texts of random words, and where each word starts."""
    rng, lengths = np.random.default_rng(18), np.array([len(word) for word in VOCABULARY])
    for _ in range(CONTEXTS_A_PART):
        numbers = rng.integers(0, len(VOCABULARY), WORDS)
        yield (
            [VOCABULARY[number] for number in numbers.tolist()],
            np.cumsum(lengths[numbers] + 1) - lengths[numbers] - 1,
        )


def write_part(path, part, texts):
    """SQuAD records of texts that no other part has: each begins with a number of its own."""
    paragraphs = []
    for index, (words, starts) in enumerate(texts):
        first, qas = f"text {part} {index}: ", []
        for question in range(QUESTIONS):
            place = (part + index + 3_000 * question) % (WORDS - 1)
            answer = {"text": words[place + 1], "answer_start": len(first) + int(starts[place + 1])}
            asked = f"What follows {words[place]} at {place}?"
            record = {"id": f"{part}-{index}-{question}", "question": asked, "answers": [answer]}
            qas.append(record | {"is_impossible": False})
        paragraphs.append({"context": first + " ".join(words), "qas": qas})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": f"{part}", "paragraphs": paragraphs}]}))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    (folder / "dataset" / "train").mkdir(parents=True)
    texts = list(random_texts())
    for number in range(NUM_PARTS):
        write_part(folder / "dataset" / "train" / f"{number:03}.json", number, texts)
    write_part(folder / "dataset" / "dev.json", NUM_PARTS, texts[:2])
    scratch_tokenizer([" ".join(VOCABULARY)]).save_pretrained(folder / "tokenizer")
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    more = {"max_seq_length": 384, "doc_stride": 64, "max_question_length": 32, "calibration_fraction": 0.0002}
    more |= {"progressive_segments": [4], "batch_size": 4, "max_eval_documents": None}  # activations count too
    more |= {"dataset": str(folder / "dataset"), "tokenizer": str(folder / "tokenizer"), "max_train_documents": None}
    shrink(folder / "params.yaml", **more)
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
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (LIMITS[name], LIMITS[name])),
        )
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, (folder / f"{name}.log").read_text()
    print(f"{name}: {usage.ru_utime + usage.ru_stime:.0f} s of processor time, {usage.ru_maxrss / 2**10:.0f} MiB")


def test_it_goes_through_all_stages_below_the_limit(workspace):
    size = sum(file.stat().st_size for file in (workspace / "dataset").rglob("*.json"))
    assert size > 1.2 * LIMITS["chunk"]
    for name in LIMITS:
        stage(workspace, name)
    chunks = sum(file.stat().st_size for file in (workspace / "data" / "chunks").rglob("*"))
    print(f"dataset {size / 2**20:.0f} MiB, chunks {chunks / 2**20:.0f} MiB")
    assert chunks > 1.2 * LIMITS["train"]
    report = json.loads((workspace / "reports" / "data.json").read_text())
    assert report["train"]["documents"] + report["calibration"]["documents"] == NUM_PARTS * CONTEXTS_A_PART * QUESTIONS
    assert report["calibration"]["documents"] > 0
    assert json.loads((workspace / "reports" / "metrics.json").read_text())["total"] == 2 * QUESTIONS
