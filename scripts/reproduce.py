"""Does this commit give the same outputs twice? Run it in two empty clones and compare every output, bit for bit.

    make reproduce          # or: python -m scripts.reproduce --set profiles.sample.max_steps=50 --keep

Each clone has a DVC cache of its own, another path, another hash seed and another time zone. Both run at once, so that
they get their cores in another order too. A few steps on a few documents are enough: what differs at all (order of sets
and files, time stamps, random ids, threads) differs at once.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from scripts.copies import clean_environment

ROOT = Path(__file__).resolve().parents[1]
FEW = {
    "profiles.sample.max_steps": 20,
    "profiles.sample.max_train_documents": 300,
    "profiles.sample.max_eval_documents": 100,
}
# What the two runs must not depend on.
SURROUNDINGS = (
    {"PYTHONHASHSEED": "1", "TZ": "UTC"},
    {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo"},
)


class CheckError(Exception):
    """The check cannot be made; its text says why."""


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Run a command quietly; its output is shown when it fails."""
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        raise CheckError(f"{done.stdout}\n`{' '.join(command)}` failed with status {done.returncode} in {folder}")
    return done.stdout


def run_pipeline(source: Path, commit: str, folder: Path, surroundings: dict[str, str], few: dict[str, Any]) -> None:
    """Clone `source` at `commit` into `folder` and run all stages with the parameters `few`; says how long it took."""
    start = time.monotonic()
    environment = clean_environment(**surroundings)
    run(["git", "clone", "--quiet", str(source), str(folder)], source, environment)
    run(["git", "checkout", "--quiet", "--detach", commit], folder, environment)
    run(["dvc", "config", "--local", "cache.dir", str(folder / ".dvc" / "cache")], folder, environment)
    (folder / "dvc.lock").unlink(missing_ok=True)
    set_parameters(folder / "params.yaml", few)
    run(["dvc", "repro", "--force", "--no-run-cache"], folder, environment)
    print(f"reproduce: {folder.name} run of {commit[:12]} took {time.monotonic() - start:.0f} s", flush=True)


def set_parameters(file: Path, few: dict[str, Any]) -> None:
    """Change existing keys (dotted) of a YAML file."""
    yaml = YAML()
    values = yaml.load(file.read_text(encoding="utf-8"))
    for key, value in few.items():
        *above, name = key.split(".")
        section = values
        for part in above:
            section = section[part]
        if name not in section:
            raise CheckError(f"{file.name} has no key {key}")
        section[name] = value
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(values, stream)


def locked_outputs(folder: Path) -> dict[str, str]:
    """Every output that dvc.lock names, with its hash."""
    lock = YAML(typ="safe").load((folder / "dvc.lock").read_text(encoding="utf-8"))
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def differences(first: Path, second: Path) -> list[str]:
    """Names of the outputs that differ between two runs; for folders the files in them."""
    outputs, others = locked_outputs(first), locked_outputs(second)
    different = []
    for path in sorted(outputs.keys() | others.keys()):
        if outputs.get(path) != others.get(path):
            files, other_files = file_hashes(first / path), file_hashes(second / path)
            names = sorted(files.keys() | other_files.keys())
            inside = [name for name in names if name and files.get(name) != other_files.get(name)]
            different += [f"{path}/{name}" for name in inside] or [path]
    return different


def file_hashes(path: Path) -> dict[str, str]:
    """SHA-256 of every file below `path`, by relative name; of `path` itself, as "", when it is a file."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return {
        "" if file == path else file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.exists()
    }


def reproduce(source: Path, few: dict[str, Any], folder: Path) -> int:
    """Run twice below `folder`, at once, say what came of it, return the exit status."""
    commit = run(["git", "rev-parse", "HEAD"], source, dict(os.environ)).strip()
    if run(["git", "status", "--porcelain", "--untracked-files=no"], source, dict(os.environ)):
        print("reproduce: changes that are not committed are no part of this check", file=sys.stderr)
    clones = [folder / "first", folder / "second with a longer name"]
    with ThreadPoolExecutor(len(clones)) as pool:
        runs = [
            pool.submit(run_pipeline, source, commit, clone, surroundings, few)
            for clone, surroundings in zip(clones, SURROUNDINGS, strict=True)
        ]
    for one in runs:
        one.result()
    outputs = locked_outputs(clones[0])
    if not outputs:
        raise CheckError("dvc.lock names no outputs: nothing was compared")
    different = differences(*clones)
    for path in different:
        print(f"reproduce: {path} DIFFERS", file=sys.stderr)
    if different:
        print(
            f"reproduce: FAILED, two runs of {commit[:12]} disagree ({len(outputs)} outputs compared)", file=sys.stderr
        )
        return 1
    print(f"reproduce: all {len(outputs)} outputs are the same, bit for bit: {', '.join(sorted(outputs))}")
    return 0


def main() -> int:
    """Parse the command line and run in a temporary folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another parameter to change")
    parser.add_argument("--keep", action="store_true", help="leave the two clones for inspection")
    arguments = parser.parse_args()
    yaml = YAML(typ="safe")
    few = FEW | {key: yaml.load(value) for key, _, value in (item.partition("=") for item in arguments.set)}
    folder = tempfile.mkdtemp(prefix="reproduce-")
    try:
        return reproduce(ROOT, few, Path(folder))
    except CheckError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 1
    finally:
        if arguments.keep:
            print(f"reproduce: the clones are in {folder}")
        else:
            subprocess.run(["rm", "-rf", folder], check=True)


if __name__ == "__main__":
    sys.exit(main())
