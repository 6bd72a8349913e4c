"""Slurm as the queue of `make compare` (a `pipeline.queues.Queue`): an array job of `scripts/experiments.sbatch`.

The lines are in `.slurm/<job's comment>.tsv`; the comment is a hash of the lines, by which a later command finds
what is still queued. What each task prints is in `.slurm/logs/<experiment>.log`.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gmmxlnet.errors import ConfigError
from gmmxlnet.messages import say
from gmmxlnet.utils.files import atomic_file, digest_of
from pipeline.commands import CommandError, command
from pipeline.queues import QueueError, telling_line
from pipeline.variants import Planned

FOLDER = Path(".slurm")
TO_END = "scancel"
BATCH_FILE = Path("scripts/experiments.sbatch")
PREFIX = "gmmxlnet-"
PAUSE = 5.0  # seconds between two looks at the queue
PATIENCE = 600.0  # seconds without an answer; Slurm's controller may be restarted meanwhile


def check() -> None:
    """Raise ConfigError unless Slurm's commands are here and everything that is tracked is committed."""
    missing = [name for name in ("sbatch", "squeue", "scontrol") if shutil.which(name) is None]
    if missing:
        raise ConfigError(f"--launcher slurm needs {missing[0]} on the PATH; run it on a node of the cluster")
    changed = command("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports").splitlines()
    if changed:
        raise ConfigError(
            f"{changed[0][3:]}: is changed; --launcher slurm trains what is committed, so commit it first"
        )


def submit(planned: Sequence[Planned], jobs: int, tell: Callable[[str, str], None]) -> None:
    """Queue what Slurm has not got as the tasks of one array, `jobs` of which run at once. Raises CommandError."""
    queued = states()
    planned = [one for one in planned if one.name not in queued]
    if not planned:
        return
    lines = "".join("\t".join([one.name, *one.overrides]) + "\n" for one in planned)
    commit = command("git", "rev-parse", "HEAD").strip()
    name = PREFIX + digest_of([commit, lines])[:12]
    (FOLDER / "logs").mkdir(parents=True, exist_ok=True)
    with atomic_file(_lines(name)) as scratch:
        scratch.write_text(lines, encoding="utf-8")
    for one in planned:
        log_of(one.name).unlink(missing_ok=True)
    array, options = f"--array=1-{len(planned)}%{jobs}", (f"--comment={name}", f"--output={FOLDER}/logs/%A_%a.log")
    exported = f"--export=ALL,GMMXLNET_COMMIT={commit},GMMXLNET_LOGS={FOLDER.resolve()}/logs"
    job = command("sbatch", "--parsable", array, *options, exported, str(BATCH_FILE), str(_lines(name).resolve()))
    number = job.strip().partition(";")[0]
    say(f"compare: Slurm's job {number}, one task an experiment; to end it: scancel {number}")


def states() -> dict[str, str]:
    """The state of each experiment in Slurm's queue, as Slurm spells it: PENDING, RUNNING, … Raises CommandError."""
    found = {}
    for line in command("squeue", "--me", "--noheader", "--array", "--format=%k|%K|%T|%r").splitlines():
        name, task, state, reason = line.strip().split("|", 3)
        lines = _lines(name)
        if name.startswith(PREFIX) and lines.is_file() and task.isdigit():
            experiment = lines.read_text(encoding="utf-8").splitlines()[int(task) - 1].partition("\t")[0]
            held = state == "PENDING" and "held" in reason.lower()
            found[experiment] = f"{state} ({reason}; scontrol release lets it run)" if held else state
    return found


def wait(names: Sequence[str], jobs: int, tell: Callable[[str, str], None]) -> None:
    """Return when none of the experiments is queued or runs; `tell` every change of state. The array knows `jobs`.

    Raises CommandError if Slurm does not answer for minutes, QueueError if it holds all that is left.
    """
    known = dict.fromkeys(names, "")
    silent_since: float | None = None
    while True:
        try:
            now = states()
            silent_since = None
        except CommandError as error:
            if silent_since is None:
                silent_since = time.monotonic()
                say(f"compare: {error}; asking again for {PATIENCE / 60:.0f} minutes")
            elif time.monotonic() - silent_since > PATIENCE:
                raise
            time.sleep(PAUSE)
            continue
        left = {name: now[name] for name in names if name in now}
        for name in names:
            if now.get(name, "ended") != known[name]:
                known[name] = now.get(name, "ended")
                tell(name, known[name].lower() if known[name].isupper() else known[name])
        if not left:
            return
        if all("(" in state for state in left.values()):
            name, state = next(iter(left.items()))
            raise QueueError(f"nothing runs any more: {name} is {state}")
        time.sleep(PAUSE)


def log_of(name: str) -> Path:
    """What an experiment's task printed."""
    return FOLDER / "logs" / f"{name}.log"


def why_failed(name: str) -> str | None:
    """The error that an experiment's task printed, or else its last line; None if there is no log of it."""
    try:
        return telling_line(log_of(name).read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None


def state_and_reason(names: Sequence[str]) -> dict[str, str]:
    """The state of each experiment that is not done: queued or running, failed with the reason, or not run."""
    now = states()
    told = {}
    for name in names:
        why = why_failed(name)
        told[name] = now[name].lower() if name in now else "not run" if why is None else f"failed: {why}"
    return told


def _lines(comment: str) -> Path:
    return FOLDER / f"{comment}.tsv"
