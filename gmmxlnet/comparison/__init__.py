"""Many trained variants side by side: tables, words and a picture, made from their results by pure functions.

A `Result` is one variant trained with one seed. Nothing here trains, evaluates or looks for files; no stage depends on
it, so that a change of wording makes no experiment run again.
"""

from gmmxlnet.comparison.figure import plot_comparison
from gmmxlnet.comparison.report import render_report
from gmmxlnet.comparison.results import Result
from gmmxlnet.comparison.tables import write_csv

__all__ = ["Result", "plot_comparison", "render_report", "write_csv"]
