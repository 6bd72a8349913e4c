"""DVC's experiments and queue, through DVC's commands: finished, queued and failed experiments.

An experiment is done when a commit of its name has the parameters asked for and the code that is here now, whichever
commit it started from; a commit of the report, say, makes nothing run again.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from gmmxlnet.errors import ConfigError, GMMXLNetError
from gmmxlnet.messages import say
from pipeline.places import PARAMS
from pipeline.variants import Planned, in_use, overridden

SHORTEST_WAIT, LONGEST_WAIT = 2.0, 20.0  # seconds between two looks at the queue
ORDER = ("running", "queued", "failed", "success")  # of a name that went through the queue twice, the first counts
STALLED_LOOKS = 10  # consecutive checks that find tasks but no worker
RESTARTS = (3, 6)  # of those looks; a worker on a busy machine answers late, and a second one would work beside it
THAT_IT_FAILED = re.compile("ERROR: failed to reproduce|experiments: .* failed; ")  # of DVC, of the batch file


class QueueError(GMMXLNetError):
    """DVC or git refused something."""


def command(*words: str) -> str:
    """Run a command and return what it prints. Raises QueueError with its last words when it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # pipes would wait for DVC's workers
        status = subprocess.run(words, stdout=out, stderr=err, check=False).returncode
        for stream in (out, err):
            stream.seek(0)
        printed, complained = out.read(), err.read()
    if status:
        raise QueueError(f"`{' '.join(words)}` failed: {' '.join((complained or printed).split())[-400:]}")
    return printed


def check_place() -> None:
    """Raises QueueError where DVC cannot copy the repository, of which it says little, and late."""
    command("git", "rev-parse", "HEAD")  # there is a repository, and a commit
    try:
        command("git", "rev-list", "--count", "HEAD")
    except QueueError:
        raise QueueError(
            "git finds no end of this clone's history, as after dvc exp pull in a shallow clone; get all of it: "
            "git rev-parse HEAD > .git/shallow && git fetch --unshallow"
        ) from None
    cache = command("dvc", "cache", "dir").strip()
    if not cache.isascii():
        raise QueueError(
            f"DVC runs no queued experiment while the path of its cache has letters beyond ASCII ({cache}); move the "
            "cache: mv .dvc/cache /another/path && dvc cache dir --local /another/path"
        )


def find_done(planned: Planned) -> str | None:
    """The git revision of a finished experiment that has this name, these parameters and the code that is here now."""
    listed = command(
        "git", "for-each-ref", "--format=%(objectname)", "--sort=-creatordate", f"refs/exps/*/*/{planned.name}"
    )
    for revision in listed.split():
        if _same_parameters(planned, revision) and _same_code(revision):
            return revision
    return None


def states() -> dict[str, str]:
    """Each experiment's state, of those that went through the queue: queued, running, failed or success.

    Read from `dvc queue status`, since `dvc exp show` fails while an experiment's folder is being made.
    """
    return _status()[0]


def _status() -> tuple[dict[str, str], bool]:
    """The states, and whether any worker is alive."""
    found: dict[str, str] = {}
    *lines, workers = command("dvc", "queue", "status").strip().splitlines()
    for line in lines:
        words = line.lower().split()  # task, name, time of creation, state
        if words and words[-1] in ORDER:
            name, state = words[1], words[-1]
            found[name] = min(state, found.get(name, state), key=ORDER.index)
    return found, workers != "Worker status: 0 active, 0 idle"


def enqueue(planned: Planned, failed: bool) -> None:
    """Put an experiment into the queue; what an older one of its name left, or `failed` at, is removed."""
    if failed:
        command("dvc", "queue", "remove", planned.name)
    if command("git", "for-each-ref", f"refs/exps/{_baseline()}/{planned.name}"):
        say(f"compare: {planned.name} was made with other parameters or code; its experiment is replaced")
        command("dvc", "exp", "remove", planned.name)
    overrides = [word for override in planned.overrides for word in ("-S", override)]
    command("dvc", "exp", "run", "--queue", "--name", planned.name, *overrides)


def wait(names: Iterable[str], jobs: int, tell: Callable[[str, str], None]) -> None:
    """Start `jobs` workers and return when none of the experiments waits or runs; `tell` every change of state."""
    names, pause, stalled = list(names), SHORTEST_WAIT, 0
    known: dict[str, str] = {}
    command("dvc", "queue", "start", "--jobs", str(jobs))
    while True:
        now, workers = _status()
        changed = {name: now[name] for name in names if name in now and now[name] != known.get(name)}
        for name, state in changed.items():
            tell(name, state)
        known |= changed
        waiting = [name for name in names if now.get(name) in ("queued", "running")]
        if not waiting:
            return
        stalled = 0 if workers else stalled + 1
        if stalled == STALLED_LOOKS:
            raise QueueError(f"nobody works at {', '.join(waiting)}; see `dvc queue status`, remove them and try again")
        if stalled in RESTARTS:  # they were killed, or left just before this was queued
            command("dvc", "queue", "start", "--jobs", str(jobs))
        pause = SHORTEST_WAIT if changed else min(LONGEST_WAIT, pause * 1.5)
        time.sleep(pause)


def state_and_reason(names: Sequence[str]) -> dict[str, str]:
    """The state of each experiment, with the reason of those that failed."""
    now = states()
    told = {name: now.get(name, "not run") for name in names}
    return {name: f"failed: {why_failed(name)}" if state == "failed" else state for name, state in told.items()}


def why_failed(name: str) -> str:
    """The last line of a failed experiment's log that says something."""
    return telling_line(command("dvc", "queue", "logs", name))


def telling_line(log: str) -> str:
    """The last line of a log that says more than that an experiment failed, or else the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    own = [line for line in lines if not THAT_IT_FAILED.match(line)]
    return (own or lines or ["its log is empty"])[-1]


def file_at(revision: str, path: str) -> str:
    """A file that git keeps, as it was in a revision."""
    return command("git", "show", f"{revision}:{path}")


def _baseline() -> str:
    """HEAD, as the names of its experiments' references spell it."""
    commit = command("git", "rev-parse", "HEAD").strip()
    return f"{commit[:2]}/{commit[2:]}"


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
    stages: dict[str, Any] = YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    entries = [entry for stage in stages.values() for kind in ("outs", "metrics") for entry in stage.get(kind, [])]
    made = {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
    return sorted({path for stage in stages.values() for path in stage["deps"]} - made)
