"""Plots: what is drawn is the data of the right column; labeled, repeatable to the byte, loaded only when asked for."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from gmmxlnet.analysis.plots import all_figures, plot_memory_ablation, save_figure
from gmmxlnet.analysis.records import RoutingProbabilities
from gmmxlnet.analysis.routing import RoutingTable
from gmmxlnet.utils import (
    plot_entropy_timeline,
    plot_expert_similarity,
    plot_expert_utilization,
    plot_routing_by_question_type,
    plot_routing_heatmap,
    plot_scores_by_segments,
    plot_training_curves,
)

N = 120  # steps
STEP = np.arange(1, N + 1)
STEPS = {
    "step": STEP,
    "loss": 9.0 - STEP / 50,
    "span": 5.0 - STEP / 60,
    "reconstruction": 3.0 - STEP / 70,
    "learning_rate": 1e-3 * np.sin(STEP / 40),
    **{f"utilization_{j}": (1 + j + np.cos(STEP / (9 + j))) / 50 for j in range(8)},
}


def group(exact, f1):
    return {
        **{"exact_match": exact, "exact_match_interval": [exact - 3, exact + 1]},
        **{"f1": f1, "f1_interval": [f1 - 2, f1 + 5], "total": 9},
    }


ABLATION = {
    name: {
        **group(90 - 15 * i, 0),
        "by_question_type": {"cross": group(80 - 14 * i, 0), "local": group(70 - 13 * i, 0)},
    }
    for i, name in enumerate(("normal", "zeroed", "shuffled", "reset"))
}
METRICS = {
    "memory_ablation": ABLATION,
    "by_question_type": ABLATION["normal"]["by_question_type"],
    "by_segments": {"1": group(51.0, 62.0), "12": group(33.0, 44.0)},
    "always_no_answer": {"exact_match": 28.5},
}
BY_TYPE = {"cross": {"expert_utilization": [0.1, 0.6, 0.3]}, "local": {"expert_utilization": [0.45, 0.2, 0.35]}}
SIMILARITY = [[1.0, -0.2, 0.3], [-0.2, 1.0, 0.4], [0.3, 0.4, 1.0]]


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
        plot_training_curves(STEPS),
        plot_expert_similarity(SIMILARITY),
        plot_routing_by_question_type(BY_TYPE),
        plot_scores_by_segments(METRICS),
        plot_memory_ablation(METRICS),
    ]


def heights(bars):
    return [bar.get_height() for bar in bars]


def limits(container):
    """The ends (N,2) of an error bar's vertical lines."""
    (lines,) = container[2]
    return [[low[1], high[1]] for low, high in lines.get_segments()]


def by_label(axes):
    """Lines, bars and error bars of a plot by their label in the legend."""
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def test_axes_say_what_they_show(routing_data):
    heatmap, utilization, entropy, *others = figures(routing_data)
    assert heatmap.axes[0].get_ylabel() == "expert"
    assert "%" in utilization.axes[0].get_ylabel()
    assert "nats" in entropy.axes[0].get_ylabel()
    for figure in others:
        assert all(axes.get_ylabel() for axes in figure.axes)
        assert figure.axes[-1].get_xlabel() or figure.axes[-2].get_xlabel()


def test_heatmap_draws_experts_by_segments_on_a_scale_that_fits(routing_data):
    image = plot_routing_heatmap(routing_data, max_segments=100).axes[0].images[0]
    probs = RoutingTable.of(routing_data).probs[:100]
    np.testing.assert_array_equal(image.get_array(), probs.T)
    assert image.get_clim() == (probs.min(), probs.max())
    borders = [line.get_xdata()[0] for line in plot_routing_heatmap(routing_data, max_segments=7).axes[0].lines]
    assert borders == [2.5, 5.5]  # three segments a document


def test_utilization_draws_each_experts_share():
    axes = plot_expert_utilization([0.4, 0.1, 0.3, 0.2]).axes[0]
    assert heights(axes.containers[0]) == pytest.approx([40, 10, 30, 20])
    assert [text.get_text() for text in axes.texts] == ["40.0%", "10.0%", "30.0%", "20.0%"]
    assert axes.lines[0].get_ydata()[0] == 25


def test_entropy_timeline_draws_every_segment_and_their_running_mean(routing_data):
    dots, mean, even = plot_entropy_timeline(routing_data).axes[0].lines
    entropy = RoutingTable.of(routing_data).entropy
    np.testing.assert_array_equal(dots.get_ydata(), entropy)
    assert mean.get_xdata()[0] == 9.5
    assert mean.get_ydata()[[0, -1]] == pytest.approx([entropy[:20].mean(), entropy[-20:].mean()])
    assert even.get_ydata()[0] == pytest.approx(math.log(4))


def test_training_curves_draw_their_own_columns():
    loss, use, rate = plot_training_curves(STEPS).axes
    lines = by_label(loss)
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), STEPS["loss"])  # unsmoothed
    labels = {"loss": "loss", "span": "span", "reconstruction": "memory reconstruction (unweighted)"}
    for name, label in labels.items():
        assert lines[label].get_ydata()[60] == pytest.approx(np.mean(STEPS[name][60:62]), abs=0.05)
    for j in range(8):
        expected = 100 * STEPS[f"utilization_{j}"][60]
        assert by_label(use)[f"expert {j}"].get_ydata()[60] == pytest.approx(expected, rel=0.05)
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), STEPS["learning_rate"])
    np.testing.assert_array_equal(rate.lines[0].get_xdata(), STEPS["step"])


def test_training_without_experts_has_no_panel_for_them():
    without = {name: values for name, values in STEPS.items() if not name.startswith("utilization")}
    assert len(plot_training_curves(without).axes) == 2
    assert len(plot_training_curves({name: values[:1] for name, values in without.items()}).axes) == 2


def test_similarity_draws_and_writes_every_pair():
    axes = plot_expert_similarity(SIMILARITY).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), SIMILARITY)
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert (written[1, 0], written[2, 1], written[0, 2]) == ("-0.20", "0.40", "0.30")


def test_question_types_draw_each_expert_in_each_type():
    bars = by_label(plot_routing_by_question_type(BY_TYPE).axes[0])
    for j in range(3):
        expected = [100 * BY_TYPE[kind]["expert_utilization"][j] for kind in BY_TYPE]
        assert heights(bars[f"expert {j}"]) == pytest.approx(expected)


def test_scores_by_segments_draw_both_metrics_with_their_intervals():
    drawn = by_label(plot_scores_by_segments(METRICS).axes[0])
    for label, metric in (("exact match", "exact_match"), ("F1", "f1")):
        groups = METRICS["by_segments"].values()
        assert drawn[label][0].get_ydata() == pytest.approx([group[metric] for group in groups])
        assert drawn[label][0].get_xdata() == pytest.approx([1, 12], abs=0.1)
        assert limits(drawn[label]) == [pytest.approx(group[f"{metric}_interval"]) for group in groups]


def test_ablations_draw_their_own_rows_with_their_intervals():
    axes = plot_memory_ablation(METRICS).axes[0]
    bars = by_label(axes)
    errors = [container for container in axes.containers if container not in bars.values()]
    assert len(errors) == 4
    for (name, row), error in zip(ABLATION.items(), errors, strict=True):
        groups = [row, *row["by_question_type"].values()]
        assert heights(bars[name]) == pytest.approx([group["exact_match"] for group in groups])
        assert limits(error) == [pytest.approx(group["exact_match_interval"]) for group in groups]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["all", "cross", "local"]
    assert bars["always “no answer” (all), 28.5"].get_ydata()[0] == 28.5


def test_an_ablation_without_a_result_is_left_out():
    missing = {**METRICS, "memory_ablation": {**ABLATION, "shuffled": dict.fromkeys(ABLATION["shuffled"])}}
    assert set(by_label(plot_memory_ablation(missing).axes[0])) >= {"normal", "zeroed", "reset"}
    assert "shuffled" not in by_label(plot_memory_ablation(missing).axes[0])


def test_eight_experts_are_told_apart_without_color():
    shares = {"cross": {"expert_utilization": [0.125] * 8}}
    training, by_type = plot_training_curves(STEPS), plot_routing_by_question_type(shares)
    assert len({str(line._unscaled_dash_pattern) for line in training.axes[1].lines}) == 8
    assert len({bars[0].get_hatch() for bars in by_type.axes[0].containers}) == 8


def test_plots_of_the_routing_are_left_out_where_it_is_diffuse(routing_data):
    routing = {"expert_utilization": [0.4, 0.6], "expert_diversity": SIMILARITY, "by_question_type": BY_TYPE}
    always = {"memory_ablation", "segments", "training"}
    of_routing = {"utilization", "heatmap", "entropy", "similarity", "question_types"}
    for pattern, data, expected in (
        ("mixed", routing_data, always | of_routing),
        ("diffuse", routing_data, always),
        (None, [], always),
    ):
        assert set(all_figures(METRICS, STEPS, {**routing, "pattern": pattern}, data)) == expected


def test_same_bytes_each_time(routing_data, tmp_path):
    for name in ("first", "second"):
        for i, figure in enumerate(figures(routing_data)):
            save_figure(figure, tmp_path / name / f"{i}.png")
    for i in range(8):
        first, second = ((tmp_path / name / f"{i}.png").read_bytes() for name in ("first", "second"))
        assert first == second
        assert first.startswith(b"\x89PNG")
        assert b"Software" not in first


def test_importing_utils_loads_neither_matplotlib_nor_torch():
    code = (
        "import sys, gmmxlnet.utils; sys.exit(any(name in sys.modules for name in ('matplotlib', 'pandas', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(ImportError):
        from gmmxlnet.utils import nothing_of_that_name  # noqa: F401
