"""Is a checkpoint what was saved, whole and alive? `verify(folder, level)`, behind `gmmxlnet verify` and the stage.

Three levels, each with the checks of those before it: `quick` loads no weights, `structure` reads every tensor, `full`
loads the model in a fresh process, changes it and damages copies of it, to prove that each change would be noticed.

`verify` is imported lazily: it needs torch, which the command's help and a mistyped folder do not.
"""

from typing import Any

from gmmxlnet.verification.checks import LEVELS, Check, Report

__all__ = ["LEVELS", "Check", "Report", "verify"]


def __getattr__(name: str) -> Any:
    if name != "verify":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gmmxlnet.verification.levels import verify

    return verify
