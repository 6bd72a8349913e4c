"""Stage evaluate: the model's answers to the dev questions (`reports/*predictions.json`) and their scores."""

from gmmxlnet.messages import say
from gmmxlnet.utils.files import write_json
from pipeline.experiment import Experiment
from pipeline.launch import join, run_together
from pipeline.params import load_params
from pipeline.places import CHUNKS, METRICS, MODEL, N_BEST, NULL_ODDS, PREDICTIONS
from pipeline.scoring import score
from pipeline.stage import run_stage
from pipeline.tracking import experiment_run


def main() -> None:
    """Answer and score, and write the answers, their odds and the scores."""
    params = load_params()
    if run_together(params):
        return
    processes = join(params.device)
    scored = score(params, CHUNKS, MODEL)
    if not processes.is_main:
        return
    predictions, metrics = scored.predictions, scored.metrics
    write_json(PREDICTIONS, predictions.answers(scored.threshold))
    write_json(NULL_ODDS, predictions.odds_by_id())
    write_json(N_BEST, predictions.n_best_by_id())
    write_json(METRICS, metrics)
    with experiment_run(MODEL) as run:
        run.log_results(METRICS, Experiment.read(MODEL))
    floor = metrics["always_no_answer"]["exact_match"]
    say(
        f"evaluate: EM {metrics['exact_match']:.2f}, F1 {metrics['f1']:.2f} on {metrics['total']:,} questions "
        f"(always “no answer”: {floor:.2f}) -> {METRICS}"
    )


if __name__ == "__main__":
    run_stage(main)
