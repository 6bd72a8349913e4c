"""`gmmxlnet verify DIR`: checks that a checkpoint is what was saved. Exit status 0 only if every check passes."""

import argparse
import json
from pathlib import Path

from gmmxlnet.verification.checks import LEVELS, Report, check_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("folder", metavar="DIR", help="a checkpoint's folder")
    parser.add_argument(
        "--level",
        choices=LEVELS,
        default="structure",
        help="quick: files, settings, headers; structure: every tensor; full: load in a fresh process, perturb, damage",
    )
    parser.add_argument("--against", metavar="DIR2", help="another checkpoint that must be the same")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Verifies the checkpoint and prints the report."""
    folder = Path(arguments.folder)
    report = Report(folder=str(folder), level=arguments.level)
    if report.add("folder", lambda: check_folder(folder)):
        from gmmxlnet.verification.levels import verify  # imports torch, which a mistyped folder need not wait for

        report = verify(folder, arguments.level, against=arguments.against)
    print(json.dumps(report.to_json(), indent=2) if arguments.json else report.to_text())
    return 0 if report.passed else 1
