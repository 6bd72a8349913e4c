"""Plots: labeled, repeatable to the byte, and loaded only when asked for."""

import subprocess
import sys

import pytest
import torch

from gmmxlnet.analysis.plots import save_figure
from gmmxlnet.analysis.records import RoutingProbabilities
from gmmxlnet.utils import (
    plot_entropy_timeline,
    plot_expert_similarity,
    plot_expert_utilization,
    plot_routing_by_question_type,
    plot_routing_heatmap,
    plot_scores_by_segments,
    plot_training_curves,
)

STEPS = {"step": range(120), "loss": [3.0] * 120, "span": [2.0] * 120, "learning_rate": [1e-3] * 120}
GROUP = {"exact_match": 50.0, "exact_match_interval": [40.0, 60.0], "f1": 55.0, "f1_interval": None, "total": 9}


@pytest.fixture(scope="module")
def routing_data():
    generator = torch.Generator().manual_seed(0)
    records = []
    for segment_id in range(3):
        logits = torch.randn(40, 4, generator=generator)
        probs = logits.softmax(-1)
        records.append(
            RoutingProbabilities(
                segment_id=segment_id,
                routing_logits=logits,
                routing_probs=probs,
                entropy=torch.special.entr(probs).sum(-1),
                top_expert_idx=probs.argmax(-1),
                document_index=torch.arange(40),
            )
        )
    return records


def figures(routing_data):
    return [
        plot_routing_heatmap(routing_data=routing_data, max_segments=100, figsize=(12, 4)),
        plot_expert_utilization(utilization=[0.27, 0.24, 0.26, 0.23], figsize=(8, 5)),
        plot_entropy_timeline(routing_data=routing_data, figsize=(12, 4)),
        plot_training_curves(STEPS | {f"utilization_{j}": [0.25] * 120 for j in range(8)}),
        plot_expert_similarity([[1.0, -0.2], [-0.2, 1.0]]),
        plot_routing_by_question_type({"cross": {"expert_utilization": [0.5] * 8}}),
        plot_scores_by_segments({"by_segments": {"1": GROUP, "12": GROUP}}),
    ]


def test_axes_say_what_they_show(routing_data):
    heatmap, utilization, entropy, *others = figures(routing_data)
    assert heatmap.axes[0].get_ylabel() == "expert"
    assert heatmap.axes[0].images[0].get_array().shape == (4, 100)
    assert "%" in utilization.axes[0].get_ylabel()
    assert "nats" in entropy.axes[0].get_ylabel()
    for figure in others:
        assert all(axes.get_ylabel() for axes in figure.axes)
        assert figure.axes[-1].get_xlabel() or figure.axes[-2].get_xlabel()


def test_eight_experts_are_told_apart_without_color(routing_data):
    training, by_type = figures(routing_data)[3], figures(routing_data)[5]
    assert len({str(line._unscaled_dash_pattern) for line in training.axes[1].lines}) == 8
    assert len({bars[0].get_hatch() for bars in by_type.axes[0].containers}) == 8


def test_training_without_experts_has_no_panel_for_them():
    assert len(plot_training_curves(STEPS).axes) == 2
    assert len(plot_training_curves({name: values[:1] for name, values in STEPS.items()}).axes) == 2


def test_same_bytes_each_time(routing_data, tmp_path):
    for name in ("first", "second"):
        for i, figure in enumerate(figures(routing_data)):
            save_figure(figure, tmp_path / name / f"{i}.png")
    for i in range(7):
        first, second = ((tmp_path / name / f"{i}.png").read_bytes() for name in ("first", "second"))
        assert first == second
        assert first.startswith(b"\x89PNG")
        assert b"Software" not in first


def test_importing_utils_loads_neither_matplotlib_nor_torch():
    code = "import sys, gmmxlnet.utils; sys.exit(any(name in sys.modules for name in ('matplotlib', 'scipy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(ImportError):
        from gmmxlnet.utils import nothing_of_that_name  # noqa: F401
