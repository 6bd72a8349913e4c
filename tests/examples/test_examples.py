"""The two examples run one after the other, on the sample, for a few steps."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(monkeypatch, name, *options):
    monkeypatch.setattr(sys, "argv", [name, *options])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_train_then_analyze(tmp_path, monkeypatch, capsys, sample_chunks):
    """On the small dataset that the chunks of other tests were made from."""
    monkeypatch.chdir(tmp_path)
    dataset = ["--dataset", str(sample_chunks.parent)]
    run(monkeypatch, "train_with_gmm_memory.py", *dataset, "--steps", "2", "--output", "model")
    assert "EM " in capsys.readouterr().out
    run(monkeypatch, "analyze_gmm_experts.py", *dataset, "--model", "model", "--documents", "9", "--output", "plots")
    told = capsys.readouterr().out
    assert "expert 3: " in told
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"heatmap.png", "utilization.png", "entropy.png"}
