"""A wrong parameter costs no trained model: refused in a real DVC repository before any output is removed."""

import pytest

from pipeline.experiment import folder_hash
from tests.small_repository import make_repository, must, run

OUTPUTS = ("data/chunks", "models/gmm", "reports/training.csv")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The files of this repository with a small model, trained once."""
    folder = make_repository(tmp_path_factory.mktemp("main"))
    must(folder, "dvc", "repro", "train")
    must(folder, "git", "add", "--all")
    must(folder, "git", "commit", "--quiet", "--message", "trained")
    return folder


def link_outputs(repository, link):
    """Let DVC put its outputs there as copies or links."""
    (repository / ".dvc" / "config.local").write_text(f"[cache]\n    type = {link}\n", encoding="utf-8")
    must(repository, "dvc", "checkout", "--relink", *OUTPUTS)


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

    status, said = run(repository, "dvc", "exp", "run", "-S", override)
    assert status != 0
    assert f"check: params.yaml: {override.partition('=')[0]} must be " in said
    assert "No output was touched; mend it, or go back: git checkout params.yaml && dvc repro" in said
    assert "failed to reproduce 'check'" in said
    assert {name: folder_hash(repository / name) for name in OUTPUTS[:2]} == before
    assert (repository / "reports" / "training.csv").exists()

    must(repository, "git", "checkout", "params.yaml")
    said = must(repository, "dvc", "repro", "train")
    assert "Running stage" not in said.replace("Running stage 'check'", "")
    assert {name: folder_hash(repository / name) for name in OUTPUTS[:2]} == before
    assert must(repository, "git", "status", "--short") == ""


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_what_is_trained_anew_replaces_it_whole(repository, link):
    """Linked outputs are read-only and shared with the cache: new ones must not be written through the links."""
    link_outputs(repository, link)
    before = folder_hash(repository / "models/gmm")
    (repository / "params.yaml").write_text(
        (repository / "params.yaml").read_text(encoding="utf-8").replace("seed: 13 ", "seed: 14 "), encoding="utf-8"
    )
    must(repository, "dvc", "repro", "train")
    assert folder_hash(repository / "models/gmm") != before
    must(repository, "git", "checkout", "params.yaml", "dvc.lock")
    must(repository, "dvc", "checkout", *OUTPUTS)
    assert folder_hash(repository / "models/gmm") == before
