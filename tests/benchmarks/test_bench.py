"""The benchmarks run in miniature, and their peer and their arithmetic are right."""

import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import run_qa
from benchmarks.flex import attend_flex
from benchmarks.inputs import Texts
from benchmarks.operations import matmul_operations
from benchmarks.report import _before
from benchmarks.synthetic import xlnet_config
from benchmarks.timing import Bar, figure, peak_bytes
from gmmxlnet.models.attention import attend_fused


@pytest.fixture(scope="module")
def texts():
    return Texts(quick=True)


@pytest.mark.slow
def test_the_miniature_writes_a_report(run, tmp_path):
    done = run("benchmarks", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "benchmarks.json").read_text())
    assert len(report["figures"]) == 15
    for found in report["figures"]:
        assert found["lowest"] <= found["value"] <= found["highest"]
        assert found["name"] in done.stdout
        assert found["name"] in (tmp_path / "benchmarks.md").read_text()
    assert any("FLOPs" in name for name in report["not_taken"])


@pytest.mark.parametrize(("L", "K"), [(5, 5), (4, 9), (1, 3)])
def test_flex_attention_forms_what_fused_attention_does(L, K):
    torch.manual_seed(0)
    shapes = [(2, 3, L, 10), (2, 3, K, 10), (2, 3, K, 4), (2, 3, L, 4), (3, K + L - 1, 4)]
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    expected = attend_fused(*inputs, scale=0.5, dropout=0.0)
    torch.testing.assert_close(attend_flex(*inputs, scale=0.5), expected, rtol=1e-10, atol=1e-12)


def test_a_figure_is_the_median_and_knows_its_bar():
    found = figure("x", [3.0, 1.0, 2.0], Bar(at_least=2.5))
    assert (found.value, found.lowest, found.highest, found.met) == (2.0, 1.0, 3.0, False)
    assert Bar(at_most=2.5).met(2.0)


def test_peak_memory_counts_what_is_held_at_once():
    def hold():
        kept = torch.zeros(2**20)  # 4 MiB
        for _ in range(3):
            torch.zeros(2**19)  # 2 MiB at a time
        return kept

    assert peak_bytes(hold) == 6 * 2**20


def test_gradients_of_an_earlier_step_make_no_room_for_the_next():
    model = torch.nn.Linear(2**10, 2**9, bias=False)  # 2 MiB of weights, and as much of gradients
    inputs = torch.ones(1, 2**10)

    def step():
        model.zero_grad()
        model(inputs).sum().backward()

    first = peak_bytes(step, model)
    assert first >= 2 * 2**20
    assert peak_bytes(step, model) == first


def test_operations_against_a_count_by_torch():
    """torch counts transformers' forward with its position keys for each document and more distances."""
    config = xlnet_config(d_model=64, n_layer=2, vocab_size=100)
    L, B = 16, 1
    ours = matmul_operations(config, batch_size=B, length=L, training=False)
    from transformers import XLNetForQuestionAnsweringSimple

    model = XLNetForQuestionAnsweringSimple(config).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(0, 100, (B, L)))
    assert 0.85 * counter.get_total_flops() < ours < counter.get_total_flops()


def test_the_peers_labels_are_the_answers(texts):
    questions = run_qa.read_questions(texts.dev).select(range(12))
    features = run_qa.prepare(questions, texts.tokenizer, make=run_qa.training_features, max_length=160, stride=8)
    assert len(features) == 12  # so long that nothing overflows
    for row, feature in zip(questions, features, strict=True):
        tokens = feature["input_ids"][feature["start_positions"] : feature["end_positions"] + 1]
        expected = row["answers"]["text"][0] if row["answers"]["text"] else "<cls>"
        assert texts.tokenizer.decode(tokens) == expected


def test_the_peer_finds_the_answer_that_the_logits_point_at(texts):
    questions = run_qa.read_questions(texts.dev).select(range(6))
    shape = dict(max_length=64, stride=8)
    labeled = run_qa.prepare(questions, texts.tokenizer, make=run_qa.training_features, **shape)
    features = run_qa.prepare(questions, texts.tokenizer, make=run_qa.evaluation_features, **shape)
    start, end = np.zeros((len(features), 64)), np.zeros((len(features), 64))
    start[range(len(features)), labeled["start_positions"]] = 5
    end[range(len(features)), labeled["end_positions"]] = 5
    answered = run_qa.answers(questions, features, start, end)
    held = {f["example_id"] for f, s in zip(features, labeled["start_positions"], strict=True) if s != 63}
    cut = [row for row in questions if row["answers"]["text"] and row["id"] in held]
    assert cut
    assert len(features) > len(questions)
    for row in cut:
        null_everywhere = sum(f["example_id"] == row["id"] for f in features) == 1
        assert answered[row["id"]] == row["answers"]["text"][0] or not null_everywhere


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": 1, "figures": 3}', '{"machine": 1, "figures": [3]}'])
def test_a_damaged_report_is_written_anew(tmp_path, capsys, text):
    (tmp_path / "benchmarks.json").write_text(text, encoding="utf-8")
    assert _before(tmp_path / "benchmarks.json", 1, ["a"]) == []
    assert capsys.readouterr().err.endswith(" and is written anew\n")
