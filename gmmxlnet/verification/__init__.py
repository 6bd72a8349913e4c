"""Is a checkpoint what was saved, whole and alive? `verify(folder, level)`, behind `gmmxlnet verify` and the stage.

Three levels, each with the checks of those before it: `quick` loads no weights, `structure` reads every tensor, `full`
loads the model in a fresh process, changes it and damages copies of it, to prove that each change would be noticed.
"""

from gmmxlnet.verification.checks import LEVELS, Check, Report
from gmmxlnet.verification.verify import verify

__all__ = ["LEVELS", "Check", "Report", "verify"]
