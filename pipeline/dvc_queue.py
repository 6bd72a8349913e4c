"""DVC's queue of experiments, through DVC's commands (a `pipeline.queues.Queue`)."""

import os
import time
from collections.abc import Callable, Sequence

from gmmxlnet.messages import say
from pipeline.commands import CommandError, command
from pipeline.queues import QueueError, telling_line
from pipeline.variants import Planned

TO_END = "dvc queue stop --kill"
SHORTEST_WAIT, LONGEST_WAIT = 2.0, 20.0  # seconds between two looks at the queue
ORDER = ("running", "queued", "failed", "success")  # of a name that went through the queue twice, the first counts
STALLED_LOOKS = 10  # consecutive checks that find tasks but no worker
RESTARTS = (3, 6)  # of those looks; a worker on a busy machine answers late, and a second one would work beside it


def check() -> None:
    """Raise QueueError where DVC cannot copy the repository, of which it says little, and late."""
    command("git", "rev-parse", "HEAD")  # there is a repository, and a commit
    try:
        command("git", "rev-list", "--count", "HEAD")
    except CommandError:
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


def submit(planned: Sequence[Planned], jobs: int, tell: Callable[[str, str], None]) -> None:
    """Queue what neither waits nor runs; `jobs` counts when workers start, in `wait`."""
    now = states()
    for one in planned:  # seconds each, for DVC commits the working tree
        state = now.get(one.name, "")
        if state not in ("queued", "running"):
            _enqueue(one, failed=state == "failed")
            state = "queued"
        tell(one.name, state)


def _enqueue(planned: Planned, failed: bool) -> None:
    """Put an experiment into the queue; what an older one of its name left, or `failed` at, is removed."""
    if failed:
        command("dvc", "queue", "remove", planned.name)
    if command("git", "for-each-ref", f"refs/exps/{_baseline()}/{planned.name}"):
        say(f"compare: {planned.name} was made with other parameters or code; its experiment is replaced")
        command("dvc", "exp", "remove", planned.name)
    overrides = [word for override in planned.overrides for word in ("-S", override)]
    command("dvc", "exp", "run", "--queue", "--name", planned.name, *overrides)


def wait(names: Sequence[str], jobs: int, tell: Callable[[str, str], None]) -> None:
    """Start `jobs` workers and return when none of the experiments waits or runs; `tell` every change of state."""
    # Threads of several trainings would wait for each other; a person's own setting wins.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    pause, stalled = SHORTEST_WAIT, 0
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


def log_of(name: str) -> str:
    """The command that prints what an experiment printed."""
    return f"`dvc queue logs {name}`"


def why_failed(name: str) -> str:
    """The last line of a failed experiment's log that says something."""
    return telling_line(command("dvc", "queue", "logs", name))


def _baseline() -> str:
    """HEAD, as the names of its experiments' references spell it."""
    commit = command("git", "rev-parse", "HEAD").strip()
    return f"{commit[:2]}/{commit[2:]}"
