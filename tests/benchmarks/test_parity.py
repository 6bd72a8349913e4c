"""`python -m benchmarks.parity`: both are fine-tuned and scored alike, from files of this machine."""

import json
import sys

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks import parity
from gmmxlnet.conversion.convert import convert
from gmmxlnet.conversion.settings import ConversionSettings
from gmmxlnet.data.sample import make_sample
from tests.conversion.conftest import (  # noqa: F401 (fixtures)
    bert_folder,
    make_bert,
    paragraphs,
    text_file,
    wordpiece,
)

QUESTIONS = 24


@pytest.fixture(scope="module")
def folders(bert_folder, text_file, tmp_path_factory):  # noqa: F811
    """(BERT, converted, SQuAD)"""
    folder = tmp_path_factory.mktemp("parity")
    sample = make_sample(num_train=20, num_dev=12)
    (folder / "train-v2.0.json").write_text(json.dumps(sample["train"]), encoding="utf-8")
    (folder / "dev-v2.0.json").write_text(json.dumps(sample["dev"]), encoding="utf-8")
    size = {"max_length": 96, "tokens_per_step": 400, "precision": "float32", "device": "cpu"}
    convert(str(bert_folder), folder / "xlnet", [text_file], ConversionSettings(steps=0, **size))
    return bert_folder, folder / "xlnet", folder


@pytest.fixture
def run(folders, tmp_path, monkeypatch):
    bert, converted, squad = folders
    words = ["--bert", bert, "--converted", converted, "--squad", squad, "--work", tmp_path / "runs", "--out", tmp_path]
    words += ["--questions", QUESTIONS, "--dev-questions", 9, "--max-length", 128, "--tokens", 512]
    words += ["--precision", "float32", "--device", "cpu", "--seeds", 1]

    def run():
        monkeypatch.setattr(sys, "argv", ["parity", *map(str, words)])
        parity.main()
        return json.loads((tmp_path / "parity.json").read_text(encoding="utf-8"))

    return run


@pytest.fixture
def work(monkeypatch):
    """What each run did: the questions of each training batch, steps of its optimizer, its answers by question."""
    runs, make, batch, answers = [], parity.Run.__init__, parity.Run._batch, parity.Run.answers

    def begun(self, reader, *rest):
        make(self, reader, *rest)
        runs.append({"is_bert": reader.is_bert, "batches": [], "steps": 0, "answers": {}})

    def batched(self, asked):
        if torch.is_grad_enabled():
            runs[-1]["batches"].append([one.id for one in asked])
        return batch(self, asked)

    def answered(self, asked):
        runs[-1]["answers"] = answers(self, asked)
        return runs[-1]["answers"]

    for name, function in (("__init__", begun), ("_batch", batched), ("answers", answered)):
        monkeypatch.setattr(parity.Run, name, function)
    handle = register_optimizer_step_post_hook(lambda *_: runs[-1].update(steps=runs[-1]["steps"] + 1))
    yield runs
    handle.remove()


def test_both_do_the_same_work_and_what_is_there_is_not_run_again(run, work, folders, tmp_path, monkeypatch):
    report = run()
    teacher, student = work
    assert (teacher["is_bert"], student["is_bert"]) == (True, False)
    assert teacher["batches"] == student["batches"]
    seen = [one for batch in student["batches"] for one in batch]
    assert len(set(seen)) == len(seen) == QUESTIONS
    dev = json.loads((folders[2] / "dev-v2.0.json").read_text(encoding="utf-8"))["data"]
    asked = {qa["id"] for article in dev for paragraph in article["paragraphs"] for qa in paragraph["qas"]}
    for one in work:
        assert one["steps"] == len(one["batches"])
        assert len(one["answers"]) == 9
        assert set(one["answers"]) <= asked
        assert all(one["answers"].values())
    assert set(teacher["answers"]) == set(student["answers"])
    kinds = [(figures["kind"], figures["seed"]) for figures in report["runs"]]
    assert kinds == [("teacher", 1), ("student", 1)]
    assert report["dev_questions"] == 9
    page = (tmp_path / "parity.md").read_text(encoding="utf-8")
    assert f"{report['summary']['mean']:+.2f}" in page
    monkeypatch.setattr(parity, "Run", None)  # calling it would fail
    assert run() == report


def test_labels_and_answers_are_in_the_xlnets_places(folders):
    bert, _, squad = folders
    teacher = parity.read_teacher(str(bert))
    asked = [one for one in parity.read_asked(squad / "dev-v2.0.json", teacher.tokenizer, 128) if one.span[0] >= 0]
    assert len(asked) > 5

    by_tokens = {(*one.text_ids.tolist(), 3, *one.question_ids.tolist(), 3, 2): one for one in asked}

    class Told(torch.nn.Module):
        """Says the labels, shifted as `train` shifts them."""

        def forward(self, batch):
            logits = torch.full((2, *batch.input_ids.shape), -1e4)
            for row, (ids, mask) in enumerate(zip(batch.input_ids, batch.attention_mask.bool(), strict=True)):
                one = by_tokens[tuple(ids[mask].tolist())]
                for kind in (0, 1):
                    logits[kind, row, len(ids) - one.size + one.span[kind]] = 5.0
            return logits[0], logits[1]

    run = parity.Run.__new__(parity.Run)
    run.reader, run.device, run.dtype = Told(), torch.device("cpu"), None
    run.ids = (teacher.tokenizer.cls_token_id, teacher.tokenizer.sep_token_id, 1)
    _, f1 = parity.raw_scores({one.id: list(one.answers) for one in asked}, run.answers(asked))
    assert np.mean(list(f1.values())) == 1.0


def test_batches_hold_every_question_once_within_the_tokens(folders):
    bert, _, squad = folders
    asked = parity.read_asked(squad / "train-v2.0.json", parity.read_teacher(str(bert)).tokenizer, 128)
    batches = list(parity.batches_of(asked, 512, 3))
    assert sorted(one.id for batch in batches for one in batch) == sorted(one.id for one in asked)
    assert all(max(one.size for one in batch) * len(batch) <= 512 for batch in batches)
    assert [one.id for one in batches[0]] == [one.id for one in next(parity.batches_of(asked, 512, 3))]
