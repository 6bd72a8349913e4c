"""Stage analyze: how the model routes (`reports/routing.json`, plots), and a page on it all (`reports/index.html`)."""

import json
from typing import Any

from matplotlib.figure import Figure

from gmmxlnet.data.documents import Documents
from gmmxlnet.errors import DataError
from gmmxlnet.utils import (
    GMMAnalyzer,
    plot_entropy_timeline,
    plot_expert_utilization,
    plot_memory_ablation,
    plot_routing_heatmap,
)
from gmmxlnet.utils.analysis import no_routing_report
from gmmxlnet.utils.files import atomic_file, atomic_folder, write_json
from gmmxlnet.utils.page import render_page
from gmmxlnet.utils.plots import save_figure
from gmmxlnet.utils.seeding import seed_everything
from pipeline.evaluate import CHUNKS, METRICS, MODEL, REPORTS, load_model
from pipeline.experiment import Experiment
from pipeline.params import Params, load_params, run_stage
from pipeline.tracking import experiment_run

ROUTING = REPORTS / "routing.json"
PLOTS = REPORTS / "plots"
PAGE = REPORTS / "index.html"
DESCRIPTIONS = {
    "memory_ablation.png": "Exact match with and without memory",
    "utilization.png": "Use of the experts",
    "heatmap.png": "Routing probabilities segment by segment",
    "entropy.png": "Routing entropy segment by segment",
}


def analyze_routing(params: Params) -> tuple[dict[str, Any], dict[str, Figure]]:
    """The routing report over the dev documents, and its plots by file name; none for models that route nothing."""
    model = load_model(params)
    if model.config.memory_type != "gmm":
        return no_routing_report(model.config.memory_type), {}
    analyzer = GMMAnalyzer(model)
    report = analyzer.report(Documents.open(CHUNKS, "dev"), params.active.eval_batch_size)
    return report, {
        "utilization.png": plot_expert_utilization(report["expert_utilization"]),
        "heatmap.png": plot_routing_heatmap(analyzer.routing_data),
        "entropy.png": plot_entropy_timeline(analyzer.routing_data),
    }


def main() -> None:
    """Analyze, draw and write the page."""
    params = load_params()
    seed_everything(params.seed)
    if not METRICS.exists():
        raise DataError(f"{METRICS}: there is no such file; run the evaluate stage first: dvc repro evaluate")
    metrics = json.loads(METRICS.read_text(encoding="utf-8"))
    routing, figures = analyze_routing(params)
    figures["memory_ablation.png"] = plot_memory_ablation(metrics)
    write_json(ROUTING, routing)
    with atomic_folder(PLOTS) as folder:
        for name, figure in figures.items():
            save_figure(figure, folder / name)
    plots = {description: PLOTS / name for name, description in DESCRIPTIONS.items() if name in figures}
    page = render_page(f"GMM-XLNet: {Experiment.read(MODEL).name} on {params.profile}", metrics, routing, plots)
    with atomic_file(PAGE) as scratch:
        scratch.write_text(page, encoding="utf-8")
    with experiment_run(MODEL) as run:
        run.log_report(ROUTING, "routing")
        run.log_folder(PLOTS, "reports/plots")
        run.log_file(PAGE, "reports")
    pattern = f"routing pattern {routing['pattern']}" if routing["pattern"] else routing["note"]
    print(f"analyze: {pattern} -> {ROUTING}, {PLOTS}, {PAGE}")


if __name__ == "__main__":
    run_stage(main)
