"""A wrong parameter costs no trained model: refused in a real DVC repository before any output is removed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.experiment import folder_hash

ROOT = Path(__file__).resolve().parents[2]
FEW = {"max_train_documents": 40, "max_eval_documents": 6, "max_steps": 2, "calibration_fraction": 0.2}
SMALL = {"n_layer": 1, "d_model": 16, "n_head": 2, "d_inner": 16}
OUTPUTS = ("data/chunks", "models/gmm", "reports/training.csv")
pytestmark = pytest.mark.slow


def run(folder, *words, check=True):
    """Run git, or dvc as a module; returns what it printed."""
    program = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "GIT_"))}
    environment |= {"PYTHONPATH": str(folder), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    command = [*program, *words[1:]] if words[0] == "git" else [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The files of this repository with a small model, trained once."""
    folder = tmp_path_factory.mktemp("main")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "benchmarks/")) and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    yaml = YAML()
    yaml.default_flow_style = False
    params = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["profiles"]["sample"] |= FEW
    params["profiles"]["sample"]["scratch_size"] |= SMALL
    yaml.dump(params, folder / "params.yaml")
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "repro", "train")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "all")
    return folder


def link_outputs(repository, link):
    """Let DVC put its outputs there as copies or links."""
    (repository / ".dvc" / "config.local").write_text(f"[cache]\n    type = {link}\n", encoding="utf-8")
    run(repository, "dvc", "checkout", "--relink", *OUTPUTS)


@pytest.mark.parametrize(
    ("link", "override"),
    [
        ("copy", "memory_type=foo"),
        ("hardlink", "profiles.sample.learning_rate=7"),
        ("symlink", "memory_type=foo"),
    ],
)
def test_what_was_trained_stays(repository, link, override):
    link_outputs(repository, link)
    assert (repository / "models/gmm/config.json").is_symlink() is (link == "symlink")
    before = {name: folder_hash(repository / name) for name in OUTPUTS[:2]}

    status, said = run(repository, "dvc", "exp", "run", "-S", override, check=False)
    assert status != 0
    assert f"check: params.yaml: {override.partition('=')[0]} must be " in said
    assert "No output was touched; mend it, or go back: git checkout params.yaml && dvc repro" in said
    assert "failed to reproduce 'check'" in said
    assert {name: folder_hash(repository / name) for name in OUTPUTS[:2]} == before
    assert (repository / "reports" / "training.csv").exists()

    run(repository, "git", "checkout", "params.yaml")
    _, said = run(repository, "dvc", "repro", "train")
    assert "Running stage" not in said.replace("Running stage 'check'", "")
    assert {name: folder_hash(repository / name) for name in OUTPUTS[:2]} == before
    assert run(repository, "git", "status", "--short") == (0, "")


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_what_is_trained_anew_replaces_it_whole(repository, link):
    """Linked outputs are read-only and shared with the cache: new ones must not be written through the links."""
    link_outputs(repository, link)
    before = folder_hash(repository / "models/gmm")
    (repository / "params.yaml").write_text(
        (repository / "params.yaml").read_text(encoding="utf-8").replace("seed: 13 ", "seed: 14 "), encoding="utf-8"
    )
    run(repository, "dvc", "repro", "train")
    assert folder_hash(repository / "models/gmm") != before
    run(repository, "git", "checkout", "params.yaml", "dvc.lock")
    run(repository, "dvc", "checkout", *OUTPUTS)
    assert folder_hash(repository / "models/gmm") == before
