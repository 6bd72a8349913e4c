"""Walk through DVC's commands for experiments from every odd place that a repository can be in, and print what happens.

    make dvc-walk                                           # all places: an hour on two cores
    python -m scripts.dvc_walk --only worktree read-only    # some of them
    python -m scripts.dvc_walk --keep                       # leave the folders for inspection

A copy of the working tree with a tiny model is committed, run and pushed to a DVC remote. Each place begins as a clone
of it, in which experiments are pulled, run (here, as `--temp` and from the queue), shown, applied, branched, renamed,
removed and collected (`dvc gc`). After each command the state of git, DVC and MLflow is checked. Some places
have a limit of DVC's; the walk shows it and then does what docs/running.md advises.
The exit status is 1 if anything else than expected happens.
"""

import argparse
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from scripts.copies import clean_environment, copy_of
from scripts.small_model import shrink

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = clean_environment(OMP_NUM_THREADS="1", COLUMNS="300")
UP_TO_DATE = "Data and pipelines are up to date."
MADE_BY_RUNS = ("params.yaml", "dvc.lock", "reports/")  # what an experiment may change in git's eyes
QUEUE_SECONDS, LOOK_SECONDS = 7200, 3
SHOWN_CHARACTERS = 160


class SurpriseError(Exception):
    """Something else happened than this walk expects."""


@dataclass
class Place:
    """A repository, and how commands run in it."""

    name: str
    root: Path  # of DVC's repository
    folder: Path | None = None  # in which commands run; the root unless given
    prefix: tuple[str, ...] = ()  # words before every command
    to_run: tuple[str, ...] = ("dvc",)  # what begins a command that runs stages
    surprises: list[str] = field(default_factory=list)

    def run(self, *words: str) -> tuple[int, str]:
        """Exit status and everything printed."""
        done = subprocess.run(
            [*self.prefix, *words],
            cwd=self.folder or self.root,
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode, done.stdout

    def need(self, *words: str) -> str:
        """What a command prints. Raises SurpriseError where it fails."""
        status, printed = self.run(*words)
        if status:
            raise SurpriseError(f"`{' '.join(words)}` ends with status {status}: {last_words(printed)}")
        return printed

    def refused(self, reason: str, *words: str) -> None:
        """Run a command that DVC refuses for a reason (a pattern) of its own; anything else is a surprise."""
        status, printed = self.run(*words)
        told = f"`{' '.join(words)}`: {last_words(printed)}"
        if not status or not re.search(reason, printed):
            self.surprises.append(f"no longer refused: {words}")
            told = f"SURPRISE: {told}"
        print(f"\n{self.name}, as cloned, where DVC has a limit: {told}", flush=True)


def last_words(printed: str) -> str:
    """The last line that says something."""
    lines = [" ".join(line.split()) for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "error" in line]
    return (errors or lines or ["(nothing printed)"])[-1][:SHOWN_CHARACTERS]


# The state after a command


def changed(place: Place) -> list[str]:
    """Files that git sees as changed or new."""
    listed = subprocess.run(
        ["git", "status", "--porcelain", "-z", "."],
        cwd=place.root,
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        check=True,
    )
    return [entry[3:] for entry in listed.stdout.split("\0") if entry]


def clean(place: Place) -> str:
    """Neither git nor DVC sees a change."""
    if names := changed(place):
        raise SurpriseError(f"git sees changes: {', '.join(names)}")
    return up_to_date(place)


def up_to_date(place: Place) -> str:
    """DVC has nothing to do, and git sees no other changes than an experiment's."""
    status = place.need("dvc", "status")
    if UP_TO_DATE not in status:
        raise SurpriseError(f"dvc status: {' '.join(status.split())[:SHOWN_CHARACTERS]}")
    prefix = os.path.relpath(place.root, git_root(place))
    others = [name for name in changed(place) if not os.path.relpath(name, prefix).startswith(MADE_BY_RUNS)]
    if others:
        raise SurpriseError(f"git sees changes beside an experiment's: {', '.join(others)}")
    return "up to date"


def git_root(place: Place) -> str:
    return place.need("git", "rev-parse", "--show-toplevel").strip()


def experiments(place: Place) -> set[str]:
    """Names of the experiments that git holds."""
    references = place.need("git", "for-each-ref", "--format=%(refname)", "refs/exps/").split()
    parts = [reference.split("/") for reference in references]  # refs/exps/ab/cdef…/name
    return {"/".join(part[4:]) for part in parts if len(part) > 4 and len(part[2]) == 2}


def has(*names: str) -> Callable[[Place], str]:
    """A check that experiments of these names are there."""

    def check(place: Place) -> str:
        if missing := set(names) - experiments(place):
            raise SurpriseError(f"experiments missing: {', '.join(sorted(missing))}")
        return f"experiments: {', '.join(sorted(experiments(place)))}"

    return check


def logged(number: int) -> Callable[[Place], str]:
    """A check that MLflow's store has so many runs, and that no checkpoint of a finished training stays."""

    def check(place: Place) -> str:
        store = place.root / "mlflow.db"
        if not store.is_file():
            raise SurpriseError(f"there is no {store.name} in the repository")
        with sqlite3.connect(f"file:{store}?mode=ro".replace(" ", "%20"), uri=True) as connection:
            runs = connection.execute("select count(*) from runs").fetchone()[0]
        if runs != number:
            raise SurpriseError(f"MLflow has {runs} runs, not {number}")
        if left := [path.name for path in (place.root / ".resume").glob("*/*")]:
            raise SurpriseError(f".resume still has {', '.join(left)}")
        return f"{runs} MLflow runs"

    return check


def all_of(*checks: Callable[[Place], str]) -> Callable[[Place], str]:
    return lambda place: "; ".join(check(place) for check in checks)


# The walk

Step = tuple[str, Callable[[Place], str]]


def words(*command: str, then: Callable[[Place], str] | None = None) -> Callable[[Place], str]:
    """A step that runs a command and checks the state after it."""
    runs = command[1:2] == ("repro",) or command[1:3] == ("exp", "run")

    def walk(place: Place) -> str:
        printed = place.need(*(place.to_run if runs else command[:1]), *command[1:])
        return then(place) if then else last_words(printed)

    return walk


def queue(place: Place) -> str:
    """Start a worker and wait until it has done what is queued."""
    place.need(*place.to_run, "queue", "start")
    end = time.monotonic() + QUEUE_SECONDS
    while time.monotonic() < end:
        status = place.need("dvc", "queue", "status")
        if "Failed" in status:
            raise SurpriseError(
                f"the queued experiment failed: {last_words(place.run('dvc', 'queue', 'logs', 'two')[1])}"
            )
        if not re.search("Queued|Running", status):
            return has("two")(place)
        time.sleep(LOOK_SECONDS)
    raise SurpriseError(f"nothing came of the queue in {QUEUE_SECONDS} seconds: {last_words(status)}")


def apply(place: Place) -> str:
    """Apply the queued experiment: its parameters and all its outputs are here."""
    place.need("dvc", "exp", "apply", "two")
    if "num_memory_experts: 2" not in (place.root / "params.yaml").read_text(encoding="utf-8"):
        raise SurpriseError("params.yaml has not the experiment's parameters")
    return up_to_date(place)


def pushed(place: Place) -> str:
    """Push an experiment, over that of its name of the place before; the remote repository has it."""
    place.need("dvc", "exp", "push", "--force", "origin", "three")
    listed = place.need("git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps/*/*/three")
    (reference,) = listed.splitlines()
    if "\t".join(reference.split()) not in place.need("git", "ls-remote", "origin", "refs/exps/*"):
        raise SurpriseError(f"origin has not {reference}")
    return reference


def removed(place: Place) -> str:
    place.need("dvc", "exp", "remove", "three")
    if "three" in experiments(place):
        raise SurpriseError("the experiment is still there")
    return has("one", "temp", "shared")(place)


def collected(place: Place) -> str:
    """Collect what no experiment needs, then everything but the workspace's, which stays whole."""
    place.need("dvc", "gc", "--workspace", "--all-experiments", "--force")
    up_to_date(place)
    place.need("dvc", "exp", "apply", "one")
    up_to_date(place)
    place.need("dvc", "gc", "--workspace", "--force")
    return up_to_date(place)


def back(place: Place) -> str:
    """Go back to the commit, with outputs that are no longer in the cache."""
    place.need("git", "checkout", "--quiet", "--", str(place.root))
    place.need("dvc", "pull")
    return clean(place)


STEPS: tuple[Step, ...] = (
    ("dvc pull", words("dvc", "pull", then=clean)),
    ("dvc repro", words("dvc", "repro", then=clean)),
    ("dvc exp pull", words("dvc", "exp", "pull", "origin", "shared", then=has("shared"))),
    (
        "dvc exp run --temp",
        words(
            "dvc", "exp", "run", "--temp", "--name", "temp", "-S", "seed=14", then=all_of(clean, has("temp"), logged(1))
        ),
    ),
    (
        "dvc exp run",
        words(
            "dvc",
            "exp",
            "run",
            "--name",
            "one",
            "-S",
            "memory_type=none",
            then=all_of(up_to_date, has("one"), logged(2)),
        ),
    ),
    (
        "dvc exp run --queue",
        words("dvc", "exp", "run", "--queue", "--name", "two", "-S", "memory_type=gmm", "-S", "num_memory_experts=2"),
    ),
    ("dvc queue start", all_of(queue, logged(3))),
    ("dvc queue logs", words("dvc", "queue", "logs", "two")),
    ("dvc exp show", words("dvc", "exp", "show", "--only-changed", "--drop", ".*/")),
    ("dvc metrics diff", words("dvc", "metrics", "diff", "HEAD", "two")),
    ("dvc plots diff", words("dvc", "plots", "diff", "HEAD", "two", "--out", "dvc_plots")),
    ("dvc exp diff", words("dvc", "exp", "diff", "one", "two")),
    ("dvc exp apply", apply),
    (
        "dvc exp branch",
        words(
            "dvc",
            "exp",
            "branch",
            "two",
            "branch-of-two",
            then=lambda place: place.need("git", "rev-parse", "--short", "branch-of-two").strip(),
        ),
    ),
    ("dvc exp rename", words("dvc", "exp", "rename", "two", "three", then=has("three"))),
    ("dvc exp push", pushed),
    ("dvc exp remove", removed),
    ("dvc queue remove", words("dvc", "queue", "remove", "--success")),
    ("dvc gc", collected),
    ("git checkout, dvc pull", back),
)


def walk(place: Place) -> None:
    """Take every step; a step that fails is told and the next one taken."""
    print(f"\n{place.name}: {place.folder or place.root}", flush=True)
    for name, step in STEPS:
        start = time.monotonic()
        try:
            outcome = step(place)
        except SurpriseError as surprise:
            place.surprises.append(name)
            outcome = f"SURPRISE: {surprise}"
        print(f"  {name:24} {time.monotonic() - start:4.0f} s  {outcome}", flush=True)


# Places


def git(folder: Path, *command: str) -> None:
    subprocess.run(["git", *command], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)


def source(scratch: Path) -> Path:
    """A repository with a tiny model, its outputs in a DVC remote, and an experiment to pull."""
    folder = scratch / "source"
    folder.mkdir()
    copy_of(ROOT, folder)
    (folder / "dvc.lock").unlink(missing_ok=True)
    shrink(folder / "params.yaml")
    place = Place("source", folder)
    place.need("dvc", "remote", "add", "--default", "storage", str(scratch / "storage"))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A tiny model")
    place.need("dvc", "repro")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Its outputs")
    place.need("dvc", "push")
    place.need("dvc", "exp", "run", "--name", "shared", "-S", "routing_mode=read-based")
    git(scratch, "clone", "--quiet", "--bare", str(folder), str(scratch / "origin.git"))
    git(folder, "remote", "add", "origin", str(scratch / "origin.git"))
    place.need("dvc", "exp", "push", "origin", "shared")
    return scratch / "origin.git"


def odd_path(origin: Path, scratch: Path) -> Place:
    """A clone in a path with spaces and letters beyond ASCII, whose cache has to lie elsewhere.

    DVC writes the cache's path into the configuration of its copies, which it encodes as ASCII.
    """
    folder = scratch / "été à la mer" / "my clone"
    git(scratch, "clone", "--quiet", str(origin), str(folder))
    place = Place("odd-path", folder)
    place.need("dvc", "pull")
    place.refused("'ascii' codec can't encode", "dvc", "exp", "run", "--temp", "-S", "seed=14")
    place.need("dvc", "cache", "dir", "--local", str(scratch / "cache"))
    return place


def worktree(origin: Path, scratch: Path) -> Place:
    """A worktree of a clone."""
    git(scratch, "clone", "--quiet", str(origin), str(scratch / "main"))
    git(scratch / "main", "worktree", "add", "--quiet", "-b", "beside", str(scratch / "worktree"))
    return Place("worktree", scratch / "worktree")


def shallow(origin: Path, scratch: Path) -> Place:
    """A clone of the last commit alone, mended after `dvc exp pull` took git's note of where its history ends."""
    git(scratch, "clone", "--quiet", "--depth", "1", origin.as_uri(), str(scratch / "clone"))
    place = Place("shallow", scratch / "clone")
    place.need("dvc", "pull")
    place.need("dvc", "exp", "run", "--temp", "--name", "before", "-S", "seed=15")
    place.need("dvc", "exp", "pull", "origin", "shared")
    place.refused("Failed to traverse parents", "git", "log", "-2")
    place.need("sh", "-c", "git rev-parse HEAD > .git/shallow && git fetch --quiet --unshallow")
    (place.root / "mlflow.db").unlink()  # so that runs are counted from here
    return place


def subfolder(origin: Path, scratch: Path) -> Place:
    """Commands from a folder below the root; those that run stages take the `dvc.yaml` of their own folder."""
    git(scratch, "clone", "--quiet", str(origin), str(scratch / "clone"))
    place = Place("subfolder", scratch / "clone", folder=scratch / "clone" / "docs")
    place.refused("dvc.yaml' does not exist", "dvc", "repro")
    place.to_run = ("dvc", "--cd", "..")
    return place


def read_only(origin: Path, scratch: Path) -> Place:
    """A cache, shared with others, that cannot be written: a remote to pull from, beside a cache of its own."""
    git(scratch, "clone", "--quiet", str(origin), str(scratch / "clone"))
    place, shared = Place("read-only", scratch / "clone"), scratch / "shared"
    place.need("dvc", "cache", "dir", "--local", str(shared))
    place.need("dvc", "fetch")
    if os.geteuid():
        subprocess.run(["chmod", "-R", "a-w", str(shared)], check=True)
    else:  # root writes whatever the permissions say
        mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        place.prefix = ("unshare", "--mount", "sh", "-c", mount, str(shared))
    place.refused("Read-only file system|Permission denied", "dvc", "exp", "pull", "origin", "shared")
    place.need("dvc", "cache", "dir", "--local", "--unset")
    place.need("dvc", "remote", "add", "--local", "shared", str(shared))
    place.need("dvc", "pull", "--remote", "shared")
    return place


def links(origin: Path, scratch: Path) -> Place:
    """Outputs that are links into the cache, which DVC protects from being written."""
    git(scratch, "clone", "--quiet", str(origin), str(scratch / "clone"))
    place = Place("links", scratch / "clone")
    place.need("dvc", "config", "--local", "cache.type", "symlink")
    return place


PLACES: tuple[Callable[[Path, Path], Place], ...] = (odd_path, worktree, shallow, subfolder, read_only, links)


def main() -> int:
    """Walk in all places, or in some."""
    names = [make.__name__.replace("_", "-") for make in PLACES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="places")
    parser.add_argument("--keep", action="store_true", help="leave the folders for inspection")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="dvc-walk-")).resolve()
    surprises = []
    try:
        origin = source(scratch)
        for name, make in zip(names, PLACES, strict=True):
            if name in arguments.only:
                (scratch / name).mkdir()
                place = make(origin, scratch / name)
                walk(place)
                surprises += [f"{name}: {step}" for step in place.surprises]
    finally:
        if arguments.keep:
            print(f"the folders are in {scratch}")
        else:
            subprocess.run(["rm", "-rf", str(scratch)], check=True)
    print(f"\nsurprises: {', '.join(surprises) or 'none'}")
    return int(bool(surprises))


if __name__ == "__main__":
    sys.exit(main())
