"""One thin module per stage of `dvc.yaml`: read `params.yaml`, call `gmmxlnet`, write files.

Run one by hand with `python -m pipeline.<stage>`.
"""

import os
import sys
from types import TracebackType

OURS = {"gmmxlnet", "pipeline"}  # a module of these that is missing is a bug


def _say_what_is_missing(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Instead of a traceback where this Python lacks a package, as one outside the environment does."""
    if not isinstance(error, ModuleNotFoundError) or (error.name or "").partition(".")[0] in OURS:
        sys.__excepthook__(kind, error, trace)
        return
    remedy = "activate the environment (source .venv/bin/activate), or make it with make install"
    print(f"{_stage()}: {sys.executable} has no module {error.name}; {remedy}", file=sys.stderr)


def _stage() -> str:
    """The name of the stage that `python -m pipeline.<stage>` starts."""
    return sys.orig_argv[sys.orig_argv.index("-m") + 1].removeprefix("pipeline.").replace("_", "-")


def _prepare() -> None:
    """Set what has to be set before torch and MLflow are imported."""
    starts_stage = sys.argv[0] == "-m"
    if starts_stage:
        sys.excepthook = _say_what_is_missing

    from gmmxlnet import garbage
    from gmmxlnet.native_settings import set_native_defaults
    from gmmxlnet.utils.logs import quiet_without_a_terminal
    from pipeline import crash

    if starts_stage:
        garbage.pause()  # until `stage.errors_on_one_line`
        garbage.leave_at_exit()
        crash.prepare(_stage())
    set_native_defaults()
    quiet_without_a_terminal()
    # Read by MLflow when it is imported: report nothing to its makers, draw no progress bars of its own.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


_prepare()
