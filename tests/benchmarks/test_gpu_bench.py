"""The GPU benchmarks on a CPU: in miniature, cut off, with a family that fails; their check finds what is wrong."""

import importlib.util
import json

import pytest
import torch

from benchmarks.gpu import EXTRA, FIGURES, kernels, worker
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.state import DONE, FAILED, State
from benchmarks.timing import Bar, figure
from gmmxlnet.models.attention import attend_fused

SETUP = Setup.of(quick=True, repeats=1)


def rows(folder):
    return json.loads((folder / "benchmarks.json").read_text())


@pytest.mark.slow
def test_the_miniature_takes_every_family(run, tmp_path):
    interpreted = importlib.util.find_spec("triton") is not None
    done = run("benchmarks.gpu", tmp_path, "--families", *FIGURES, *EXTRA, TRITON_INTERPRET="1")
    assert done.returncode == (0 if interpreted else 1), done.stdout + done.stderr[-3000:]
    report = rows(tmp_path)
    assert len(report["figures"]) == (44 if interpreted else 37)
    for found in report["figures"]:
        assert found["lowest"] <= found["value"] <= found["highest"]
        assert found["name"] in done.stdout
        if found["family"].endswith("correctness"):
            assert found["met"], found
    assert set(FIGURES) <= {line.split(":")[0] for line in done.stdout.splitlines()}
    assert len(report["not_taken"]) == len(FIGURES)  # a miniature's figures do not count
    assert "transformers, eager" in (tmp_path / "profile.md").read_text()


@pytest.mark.slow
def test_only_what_failed_is_taken_again(run, tmp_path):
    """Without a GPU and Triton's interpreter the Triton kernel cannot run; a limit of a second is too short for any."""
    families = ("--families", "triton-correctness", "segments")
    first = run("benchmarks.gpu", tmp_path, *families, TRITON_INTERPRET="0")
    assert first.returncode == 1
    assert "triton-correctness: failed: the Triton kernel needs" in first.stdout
    assert "GPU cost per segment" in first.stdout
    taken = rows(tmp_path)["figures"]
    second = run("benchmarks.gpu", tmp_path, *families, TRITON_INTERPRET="0")
    assert second.returncode == 1
    assert "triton-correctness: failed" in second.stdout
    assert "segment" not in second.stdout
    assert rows(tmp_path)["figures"] == taken
    third = run("benchmarks.gpu", tmp_path, "--families", "segments", "options", "--limit", "1")
    assert third.returncode == 1
    assert "options: failed: ended its process" in third.stdout
    assert rows(tmp_path)["figures"] == taken


def test_a_family_that_fails_costs_only_itself(tmp_path, monkeypatch, capfd):
    def fails(setup):
        raise RuntimeError("no memory left")

    given = figure("a figure", [1.0, 2.0, 3.0], Bar(at_least=2.5))
    monkeypatch.setattr(worker, "FAMILIES", {"training": fails, "flex": lambda setup: [given]})
    state = State(tmp_path)
    state.begin({"card": "one"})
    assert worker.take("training", SETUP, state, tmp_path, 60)
    assert worker.take("flex", SETUP, state, tmp_path, 60)
    printed = capfd.readouterr().out
    assert "training: failed: no memory left" in printed
    assert "a figure: 2 (1 to 3; bar ≥ 2.5, MISSED)" in printed
    again = State(tmp_path)
    assert (again.of("training"), again.of("flex"), again.of("options")) == (FAILED, DONE, None)
    assert [row["name"] for row in rows(tmp_path)["figures"]] == ["a figure"]
    assert any(text.endswith("(failed: no memory left)") for text in rows(tmp_path)["not_taken"])
    assert "no memory left" in (tmp_path / "errors.txt").read_text()


def test_figures_of_another_card_are_forgotten(tmp_path):
    state = State(tmp_path)
    state.begin({"card": "one"})
    state.set("flex", DONE, rows=[])
    State(tmp_path).begin({"card": "one"})
    assert State(tmp_path).of("flex") == DONE
    State(tmp_path).begin({"card": "another"})
    assert State(tmp_path).of("flex") is None


@pytest.mark.parametrize("dropout", [0.0, kernels.DROPOUT])
def test_the_check_on_the_card_finds_fused_attention_right_and_a_wrong_one_wrong(dropout):
    inputs = kernels.random_inputs(SETUP, B=2, H=2, L=64, K=64, dtype=torch.float32)
    errors, _ = kernels._compared(attend_fused, inputs, dropout)
    assert max(errors.values()) < 1e-5

    def shifted(query, key, value, distance_query, position, **how):
        return attend_fused(query, key, value, distance_query, position.roll(1, dims=1), **how)

    errors, _ = kernels._compared(shifted, inputs, dropout)
    assert errors["output"] > 0.1
    assert errors["d_value"] > 0.1
