"""What stands on the Hub is compared by hashes: SHA-256 for large files, git's for the others."""

import hashlib

import pytest
from huggingface_hub.hf_api import RepoFile

from gmmxlnet.sharing.hub import differing_files


@pytest.fixture
def local(tmp_path):
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return {name: tmp_path / name for name in ("config.json", "model.safetensors")}


def remote(config=b"{}", weights=b"weights"):
    """The entries as the Hub's tree route describes them, with the hash git gives to `{}`."""
    blob = "9e26dfeeb6e641a33dae4961196235bdb965b21b" if config == b"{}" else "0" * 40
    oid = hashlib.sha256(weights).hexdigest()
    return [
        RepoFile(path="config.json", size=len(config), oid=blob),
        RepoFile(
            path="model.safetensors",
            size=len(weights),
            oid="1" * 40,
            lfs={"oid": oid, "size": len(weights), "pointerSize": 130},
        ),
    ]


def test_the_same_bytes_are_the_same(local):
    assert differing_files(local, remote()) == []


def test_other_bytes_are_named(local):
    assert differing_files(local, remote(config=b"[]")) == ["config.json"]
    assert differing_files(local, remote(weights=b"weightz")) == ["model.safetensors"]


def test_missing_files_are_named(local):
    assert differing_files(local, remote()[:1]) == ["model.safetensors"]


def test_files_of_others_are_left_alone(local):
    assert differing_files(local, [*remote(), RepoFile(path="README.md", size=1, oid="2" * 40)]) == []
