"""Plots: labeled, repeatable to the byte, and loaded only when asked for."""

import subprocess
import sys

import pytest
import torch

from gmmxlnet.models.records import RoutingProbabilities
from gmmxlnet.utils import plot_entropy_timeline, plot_expert_utilization, plot_routing_heatmap
from gmmxlnet.utils.plots import save_figure


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
    ]


def test_axes_say_what_they_show(routing_data):
    heatmap, utilization, entropy = figures(routing_data)
    assert heatmap.axes[0].get_ylabel() == "expert"
    assert heatmap.axes[0].images[0].get_array().shape == (4, 100)
    assert "%" in utilization.axes[0].get_ylabel()
    assert "nats" in entropy.axes[0].get_ylabel()


def test_same_bytes_each_time(routing_data, tmp_path):
    for name in ("first", "second"):
        for i, figure in enumerate(figures(routing_data)):
            save_figure(figure, tmp_path / name / f"{i}.png")
    for i in range(3):
        first, second = ((tmp_path / name / f"{i}.png").read_bytes() for name in ("first", "second"))
        assert first == second
        assert first.startswith(b"\x89PNG")
        assert b"Software" not in first


def test_importing_utils_loads_neither_matplotlib_nor_torch():
    code = "import sys, gmmxlnet.utils; sys.exit(any(name in sys.modules for name in ('matplotlib', 'scipy', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(ImportError):
        from gmmxlnet.utils import nothing_of_that_name  # noqa: F401
