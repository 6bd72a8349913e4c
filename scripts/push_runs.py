"""Push to the DVC remote what another machine needs to use the run cache: `python -m scripts.push_runs`.

`dvc push --run-cache` sends the entries of the run cache and the outputs that DVC keeps, but not the reports that git
keeps (`cache: false` in dvc.yaml). An entry of which one output is missing spares nothing: DVC runs the stage again.
This sends the entries with all of their outputs. On the other machine, run `dvc pull --run-cache` and then
`dvc repro --pull` or `dvc exp run --pull`.

A stage with outputs in git is entered in the run cache only by `dvc commit --force`.
"""

import sys
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from gmmxlnet.messages import say


def push_runs(repo: Repo) -> int:
    """Push all entries of the run cache with their outputs; returns how many entries there are."""
    with repo.lock:
        repo.stage_cache.push(None)
        entries = sorted((path.parent.name, path.name) for path in Path(repo.stage_cache.cache_dir).glob("*/*/*"))
        for store, objects in repo.stage_cache.get_used_objs(entries).items():
            repo.cloud.push(objects, odb=store)
    return len(entries)


def main() -> int:
    """Returns 1, with one line, where DVC cannot push."""
    try:
        with Repo() as repo:
            say(f"push-runs: {push_runs(repo)} runs with their outputs are in the remote")
    except DvcException as error:
        say(f"push-runs: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
