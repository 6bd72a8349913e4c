"""The check of a reload: each of these loads a real checkpoint in a fresh process, twice."""

import os

import pytest
from safetensors.torch import load_file, save_file

from gmmxlnet.errors import CheckpointError
from gmmxlnet.utils.determinism import check_reload
from gmmxlnet.utils.fingerprint import Fingerprint


@pytest.fixture
def checkpoint(make_model, tmp_path):
    model = make_model("gmm", routing_mode="read-based")
    model.save_pretrained(tmp_path)
    Fingerprint.of(model).write(tmp_path)
    return tmp_path


def test_a_changed_tensor_is_named(checkpoint):
    """Of the reading's experts, by as little as a float can change; the healthy case is in tests/pipeline."""
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["expert_mixture.expert_1"][0, 0] *= 1 + 2**-23
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    before = sorted((path.name, path.stat().st_mtime_ns) for path in checkpoint.iterdir())
    report = check_reload(checkpoint, seed=13)
    assert report["differing_tensors"] == ["expert_mixture.expert_1"]
    assert not report["bit_identical"]
    assert report["negative_control_detected"]
    assert report["fresh_process"]
    assert report["max_abs_logit_diff"] < 1e-3
    assert report["tensors"] == len(tensors) == len(report["tensor_sha256"])
    assert sorted((path.name, path.stat().st_mtime_ns) for path in checkpoint.iterdir()) == before


def test_weights_that_cannot_be_loaded_are_refused(checkpoint):
    weights = checkpoint / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 8)
    with pytest.raises(CheckpointError, match=r"cannot be loaded in a fresh process: .*incomplete") as failure:
        check_reload(checkpoint, seed=13)
    assert "\n" not in str(failure.value)


def test_a_checkpoint_without_its_fingerprint_is_refused(checkpoint):
    (checkpoint / "fingerprint.json").unlink()
    with pytest.raises(CheckpointError, match="there is no such file; train again"):
        check_reload(checkpoint, seed=13)
