"""`gmmxlnet verify`: each level passes what is sound and names what is not."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gmmxlnet.cli import main
from gmmxlnet.errors import CheckpointError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.checkpoint import MANIFEST, open_checkpoint, seal
from gmmxlnet.verification import full, static, verify
from gmmxlnet.verification.fingerprint import Fingerprint


@pytest.fixture(scope="module")
def pristine(make_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    model = make_model("gmm", routing_mode="read-based")
    model.save_pretrained(folder)
    Fingerprint.of(model).write(folder)
    seal(folder)
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "checkpoint")


def failure(folder, level, **other):
    report = verify(folder, level, **other)
    assert not report.passed
    (check, *_) = report.failures
    assert "\n" not in check.detail
    return f"{check.name}: {check.detail}"


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_sound_checkpoint_passes_in_full_and_is_left_alone(pristine, capsys):
    before = {path.name: path.read_bytes() for path in pristine.iterdir()}
    assert main(["verify", str(pristine), "--level", "full", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    names = ["folder", "config", "headers", "manifest", "fit", "libraries", "files", "pollution"]
    names += ["tensors", "hashes", "trained", "reload", "control", "components", "damage"]
    assert [check["name"] for check in report["checks"]] == names
    assert report["passed"] is True
    assert report["reload"]["bit_identical"] is report["reload"]["negative_control_detected"] is True
    assert report["reload"]["max_abs_logit_diff"] == 0
    details = {check["name"]: check["detail"] for check in report["checks"]}
    assert details["components"].startswith("each of 16 components moves the logits: encoder.word_embedding")
    assert details["damage"].startswith("4 files, each deleted, cut in half, changed in a bit")
    assert {path.name: path.read_bytes() for path in pristine.iterdir()} == before


def test_the_table_ends_with_the_verdict(folder, capsys):
    assert main(["verify", str(folder), "--level", "quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{folder}: level quick: passed"
    assert all(line.startswith("ok ") for line in lines[:-1])
    (folder / MANIFEST).unlink()
    assert main(["verify", str(folder), "--level", "quick"]) == 1
    assert "level quick: 1 of 4 checks failed" in capsys.readouterr().out


def test_quick_loads_no_weights(folder):
    """It sees what headers and sizes show; a changed number is for the next level."""
    change_weights(folder, lambda tensors: tensors["qa_head.bias"].add_(1))
    assert verify(folder, "quick").passed
    assert "tensors: " in failure(folder, "structure")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("optimizer.pt", "pollution: .*holds optimizer.pt, which no checkpoint needs"),
        ("pytorch_model.bin", "pollution: .*pytorch_model.bin"),
        ("trainer_state.json", "pollution: .*trainer_state.json"),
        ("base/other.safetensors", "pollution: .*base/other.safetensors"),
        ("model.safetensors", "headers: .*cannot be read"),
        ("config.json", "config: .*cannot be read"),
        ("checkpoint.json", "manifest: .*cannot be read"),
        ("fingerprint.json", "files: .*has 1 bytes"),
    ],
)
def test_quick_names_what_is_wrong(folder, name, words):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    assert re.match(words, failure(folder, "quick"))


def test_files_that_nobody_lists_are_told(folder):
    (folder / "notes.txt").write_text("x")
    (folder / "README.md").write_text("x")
    report = verify(folder, "quick")
    assert report.passed
    assert report.checks[-1].detail == "not listed, and read by nobody: notes.txt"


def test_other_versions_are_told(folder):
    manifest = open_checkpoint(GMMXLNetForQA, folder).manifest
    manifest.made_with.update(torch="1.0")
    manifest.write(folder)
    report = verify(folder, "quick")
    assert report.passed
    assert any("(made with 1.0)" in check.detail for check in report.checks)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    assert failure(tmp_path / "none", "full").startswith("folder: ")


def test_structure_names_the_tensor_that_changed_by_the_least(folder):
    change_weights(folder, lambda tensors: tensors["expert_mixture.expert_1"].view(torch.int32)[0, 0].bitwise_xor_(1))
    report = verify(folder, "full")
    assert [name for name, record in report.tensors.items() if not record["as_saved"]] == ["expert_mixture.expert_1"]
    assert [check.name for check in report.failures] == ["tensors", "hashes", "trained"]
    assert not report.reload


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "are NaN or infinite: qa_head.bias"), (None, "are empty")])
def test_structure_finds_nan_and_emptiness_under_hashes_that_fit(folder, value, words):
    tensors = load_file(folder / "model.safetensors")
    tensors["qa_head.bias"] = torch.full((2,), value) if value is not None else torch.zeros(0)
    records = {name: {"as_saved": True} for name in tensors}
    with pytest.raises(CheckpointError, match=words):
        static.check_tensors(folder, records, tensors)


def test_a_model_other_than_the_trained_one_is_noticed_under_hashes_that_fit(folder):
    change_weights(folder, lambda tensors: tensors["qa_head.bias"].add_(1))
    GMMXLNetForQA.adopt(folder)
    assert "trained: " in failure(folder, "structure")
    report = full.check_reload(folder, open_checkpoint(GMMXLNetForQA, folder), seed=13)
    assert report["differing_tensors"] == ["qa_head.bias"]
    assert report["bit_identical"] is False
    assert report["max_abs_logit_diff"] == pytest.approx(1, abs=1e-4)
    assert report["negative_control_detected"] is True


def test_what_the_fresh_process_says_is_passed_on(tmp_path):
    words = "cannot be loaded in a fresh process: .*CheckpointError.*config.json"
    with pytest.raises(CheckpointError, match=words) as failed:
        full.in_fresh_process([tmp_path], seed=1)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize("memory_type", ["none", "mems", "words", "token", "differentiable", "gmm"])
def test_every_component_of_every_memory_counts(make_model, memory_type):
    model = make_model(memory_type)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "moves the logits" in full.check_components(model)
    parts = [parameter for parameters in full.components_of(model).values() for parameter in parameters]
    assert len(parts) == len(list(model.parameters()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_component_without_effect_is_named(make_model):
    model = make_model("gmm")
    model.spare = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"the logits do not depend on spare$"):
        full.check_components(model)


def test_an_expert_that_the_router_has_given_up_counts(make_model):
    model = make_model("gmm")
    model.routing_network.W_gate.bias.data = torch.tensor([200.0, 0.0, -200.0])
    assert "expert_mixture.expert x3" in full.check_components(model)


def test_damage_that_goes_unnoticed_is_told(folder, monkeypatch):
    monkeypatch.setitem(full.DAMAGES, "left alone", lambda path: None)
    with pytest.raises(CheckpointError, match=r"loads although \S+ was left alone"):
        full.check_damage(folder, open_checkpoint(GMMXLNetForQA, folder))


@pytest.mark.parametrize("level", ["quick", "structure", "full"])
def test_two_checkpoints_are_compared(pristine, folder, make_model, tmp_path, level, capsys, monkeypatch):
    found = {"bit_identical": True, "tensors": 0, "negative_control_detected": True}
    monkeypatch.setattr(full, "check_reload", lambda *_: found)  # it has a test of its own, and takes seconds
    arguments = ["verify", str(pristine), "--level", level, "--against"]
    assert main([*arguments, str(folder)]) == 0
    make_model("gmm").save_pretrained(tmp_path / "other")
    assert main([*arguments, str(tmp_path / "other")]) == 1
    assert "routing_mode 'read-based' / 'write-based'" in capsys.readouterr().out
    change_weights(folder, lambda tensors: tensors["qa_head.bias"].add_(1))
    GMMXLNetForQA.adopt(folder)
    assert main([*arguments, str(folder)]) == (0 if level == "quick" else 1)
    assert ("qa_head.bias by up to 1.0" in capsys.readouterr().out) == (level != "quick")


def test_the_checkpoint_of_another_kind_fails_at_once(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "xlnet"}')
    assert "is of model_type 'xlnet'" in failure(tmp_path, "full")


def test_a_loaded_model_can_be_verified_again(pristine, tmp_path):
    GMMXLNetForQA.from_pretrained(pristine).save_pretrained(tmp_path)
    assert verify(tmp_path, "structure", against=pristine).passed
