"""Logging to standard error; the level is set by `--log-level` or the variable GMMXLNET_LOG_LEVEL."""

import argparse
import logging
import os
import sys

from gmmxlnet.errors import ConfigError
from gmmxlnet.messages import guard_output

VARIABLE = "GMMXLNET_LOG_LEVEL"
# our level -> level for transformers, which logs more
LEVELS = {"debug": "info", "info": "warning", "warning": "warning", "error": "error"}


def quiet_without_a_terminal() -> None:
    """Disables other libraries' progress bars without a terminal; call before importing them (read at import)."""
    if not sys.stderr.isatty():
        for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")


def add_log_level(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--log-level`."""
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        help=f"how much is said on standard error (default: info, or the variable {VARIABLE})",
    )


def set_log_level(level: str | None) -> None:
    """Sets the log level (debug, info, warning, error), also for transformers; None uses the variable."""
    level = level or os.environ.get(VARIABLE) or "info"
    if level not in LEVELS:
        raise ConfigError(f"{VARIABLE} must be {', '.join(LEVELS)}, not {level!r}")
    guard_output()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("gmmxlnet", "pipeline"):
        logging.getLogger(name).setLevel(level.upper())
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity(getattr(logging, LEVELS[level].upper()))
    else:  # importing it takes seconds, which a mistyped file need not wait: it reads this when it is imported
        os.environ["TRANSFORMERS_VERBOSITY"] = LEVELS[level]
