"""Compares trained variants: tables, findings in words and a plot, made from their results by pure functions.

A `Result` is one variant trained with one seed. Nothing here trains, evaluates or searches for files. No stage depends
on this package, so a change of wording does not invalidate an experiment.
"""

from gmmxlnet.comparison.figure import plot_comparison
from gmmxlnet.comparison.report import render_report
from gmmxlnet.comparison.results import Result
from gmmxlnet.comparison.tables import write_csv

__all__ = ["Result", "plot_comparison", "render_report", "write_csv"]
