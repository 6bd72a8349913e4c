"""Stage analyze: how the model routes, plots, a page on it all, and the figures by which experiments are compared."""

from typing import Any

from gmmxlnet.analysis.analyzer import GMMAnalyzer, no_routing_report
from gmmxlnet.analysis.experts import expert_profiles
from gmmxlnet.analysis.page import provenance_script, render_page
from gmmxlnet.analysis.plots import all_figures, save_figure
from gmmxlnet.analysis.shown_answers import choose_answers
from gmmxlnet.analysis.summary import ablation_table, summarize_experiment
from gmmxlnet.data.dataset_names import described
from gmmxlnet.data.documents import Documents
from gmmxlnet.devices import choose_device
from gmmxlnet.messages import said, say
from gmmxlnet.reports import read_metrics, read_n_best, read_training
from gmmxlnet.utils.files import atomic_file, atomic_folder, write_json
from gmmxlnet.utils.seeding import seed_everything
from gmmxlnet.utils.tables import write_csv
from pipeline.experiment import Experiment
from pipeline.params import Params, load_params
from pipeline.places import (
    ABLATION,
    CHUNKS,
    METRICS,
    MODEL,
    N_BEST,
    PAGE,
    PLOTS,
    PROVENANCE,
    ROUTING,
    SUMMARY,
    TRAINING_CSV,
)
from pipeline.provenance import page_facts
from pipeline.run_description import describe_training
from pipeline.scoring import load_model
from pipeline.stage import run_stage
from pipeline.tracking import experiment_run


def analyze_routing(params: Params, documents: Documents) -> tuple[dict[str, Any], GMMAnalyzer | None]:
    """The routing report over these documents, and the analyzer that holds it all; None where nothing is routed."""
    model = load_model(params, MODEL)
    if not model.config.has_router:
        return no_routing_report(model.config.memory_type), None
    analyzer = GMMAnalyzer(model)
    return analyzer.report(documents, params.active.eval_batch_size), analyzer


def main() -> None:
    """Analyze, draw and write the page."""
    params = load_params()
    seed_everything(params.seed)
    metrics, steps, documents = read_metrics(METRICS), read_training(TRAINING_CSV), Documents.open(CHUNKS, "dev")
    n_best = read_n_best(N_BEST, documents)
    routing, analyzer = analyze_routing(params, documents)
    write_json(ROUTING, routing)
    write_json(SUMMARY, summarize_experiment(metrics, routing))
    with atomic_folder(PLOTS) as folder:
        for name, figure in all_figures(metrics, steps, routing, analyzer.routing_data if analyzer else []).items():
            save_figure(figure, folder / f"{name}.png")
    table, experiment = analyzer.table if analyzer else None, Experiment.read(MODEL)
    page = render_page(
        f"GMM-XLNet: {experiment.name} on {params.profile}",
        f"{describe_training(experiment)} Trained for {len(steps['step']):,} steps.",
        metrics,
        routing,
        {path.stem: path for path in sorted(PLOTS.iterdir())},
        expert_profiles(documents, table) if table and routing["pattern"] != "diffuse" else [],
        choose_answers(documents, n_best, metrics["null_score_diff_threshold"], table),
        origin={
            "dataset": said(described(experiment.dataset)),
            "data (SHA-256 of the chunks)": experiment.data,
            "experiment (SHA-256 of parameters and data)": experiment.key,
        },
        comparison="comparison.md",
        provenance=PROVENANCE.name,
    )
    with atomic_file(PAGE) as scratch:
        scratch.write_text(page, encoding="utf-8")
    with atomic_file(PROVENANCE) as scratch:
        scratch.write_text(provenance_script(page, page_facts(experiment, choose_device(params.device))), "utf-8")
    write_csv(ABLATION, ablation_table(metrics))
    with experiment_run(MODEL) as run:
        run.log_report(ROUTING, "routing")
        run.log_folder(PLOTS, PLOTS.as_posix())
        run.log_file(PAGE, "reports")
    pattern = f"routing pattern {routing['pattern']}" if routing["pattern"] else routing["note"]
    say(f"analyze: {pattern} -> {PAGE}, {PLOTS}, {ROUTING}, {SUMMARY}, {ABLATION}")


if __name__ == "__main__":
    run_stage(main)
