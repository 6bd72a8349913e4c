"""DVC's finished experiments, whichever queue ran them.

An experiment is finished when a commit of its name has the parameters asked for and the code that is here now,
whichever commit it started from; a commit of the report, say, makes nothing run again.
"""

import subprocess
from pathlib import Path
from typing import Any

from gmmxlnet.errors import ConfigError
from pipeline.commands import command
from pipeline.places import PARAMS
from pipeline.variants import Planned, in_use, overridden
from pipeline.yaml_file import read_yaml


def find_finished(planned: Planned) -> str | None:
    """The git revision of a finished experiment that has this name, these parameters and the code that is here now."""
    listed = command(
        "git", "for-each-ref", "--format=%(objectname)", "--sort=-creatordate", f"refs/exps/*/*/{planned.name}"
    )
    for revision in listed.split():
        if _same_parameters(planned, revision) and _same_code(revision):
            return revision
    return None


def file_at(revision: str, path: str) -> str:
    """A file that git keeps, as it was in a revision."""
    return command("git", "show", f"{revision}:{path}")


def _same_parameters(planned: Planned, revision: str) -> bool:
    try:
        return in_use(overridden(file_at(revision, PARAMS.as_posix()), [])) == in_use(planned.params)
    except ConfigError:  # parameters of another time
        return False


def _same_code(revision: str) -> bool:
    """Whether what the stages depend on is in the working tree as it was in a revision."""
    done = subprocess.run(["git", "diff", "--quiet", revision, "--", "dvc.yaml", *_code()], check=False)
    return done.returncode == 0


def _code() -> list[str]:
    """What the stages depend on and none of them makes."""
    stages: Any = read_yaml(Path("dvc.yaml"))["stages"]
    entries = [entry for stage in stages.values() for kind in ("outs", "metrics") for entry in stage.get(kind, [])]
    made = {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
    return sorted({path for stage in stages.values() for path in stage["deps"]} - made)
