"""The second half of `make compare`: collect what is done, write the report, list the runs together in MLflow."""

from collections.abc import Callable, Mapping, Sequence

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from gmmxlnet.analysis.plots import save_figure
from gmmxlnet.comparison import Result, plot_comparison, render_report, write_csv
from gmmxlnet.messages import said, say
from gmmxlnet.utils.files import atomic_file
from pipeline.collect import collect
from pipeline.finished import find_finished
from pipeline.mlflow_run import Run
from pipeline.places import REPORTS
from pipeline.tracking import comparison_run
from pipeline.variants import DEFAULT_NAME, Planned, setting


def report(
    planned: Sequence[Planned], comparison: str, states_and_reasons: Callable[[Sequence[str]], dict[str, str]]
) -> dict[str, str]:
    """Write the report; returns the experiments without a result, and why: their states, as their queue tells them."""
    results: list[Result] = []
    unfinished: list[str] = []
    parent = comparison_run(comparison)
    several = len({one.seed for one in planned}) > 1
    for one in planned:
        revision = find_finished(one)
        if revision is None:
            unfinished.append(one.name)
            continue
        name = f"{one.variant}-s{one.seed}" if several else one.variant
        results.append(collect(one, revision, parent, comparison, name))
    missing = {name: said(why) for name, why in states_and_reasons(unfinished).items()} if unfinished else {}
    results.sort(key=lambda result: [one.variant for one in planned].index(result.variant))
    write(results, missing, planned, comparison, parent)
    return missing


def write(
    results: Sequence[Result], missing: Mapping[str, str], planned: Sequence[Planned], comparison: str, parent: Run
) -> None:
    """Write the three files and copy them to MLflow."""
    stem = REPORTS / ("comparison" if comparison == DEFAULT_NAME else f"comparison-{comparison}")
    files = [stem.with_suffix(suffix) for suffix in (".md", ".csv", ".png")]
    text = render_report(f"Comparison: {comparison}", results, setting(planned), missing, files[2].name)
    with atomic_file(files[0]) as scratch:
        scratch.write_text(text, encoding="utf-8")
    if results:
        write_csv(files[1], results)
        save_figure(plot_comparison(results), files[2])
    for file in files if results else files[:1]:
        parent.log_file(file, "reports")
    parent.set_tags({MLFLOW_RUN_NOTE: text.partition("![")[0]})
    parent.close("FAILED" if missing else "FINISHED")
    say(f"compare: {len(results)} of {len(planned)} have a result -> {', '.join(map(str, files))}")
