"""One thin module per stage of `dvc.yaml`: read `params.yaml`, call `gmmxlnet`, write files.

Run one by hand with `python -m pipeline.<stage>`.
"""

import os
import sys

from gmmxlnet import garbage
from gmmxlnet.native_settings import set_native_defaults
from gmmxlnet.utils.logs import quiet_without_a_terminal
from pipeline import crash

if sys.argv[0] == "-m":  # `python -m pipeline.<stage>`
    garbage.pause()  # until `stage.errors_on_one_line`
    garbage.leave_at_exit()
    crash.prepare(sys.orig_argv[sys.orig_argv.index("-m") + 1].removeprefix("pipeline.").replace("_", "-"))
set_native_defaults()
quiet_without_a_terminal()

# Read by MLflow when it is imported: report nothing to its makers, draw no progress bars of its own.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
