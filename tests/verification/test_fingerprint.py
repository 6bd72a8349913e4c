"""A fingerprint is the model's, bit for bit: it notices any change, and reads back what it wrote."""

import json

import pytest
import torch

from gmmxlnet.errors import CheckpointError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.utils.tensors import tensor_hash
from gmmxlnet.verification.fingerprint import FILE_NAME, Fingerprint
from gmmxlnet.verification.full import in_fresh_process


@pytest.fixture(scope="module")
def trained(make_model):
    return make_model("gmm", routing_mode="read-based")


@pytest.mark.parametrize("memory_type", ["none", "token", "gmm"])
def test_it_covers_every_tensor_and_real_logits(make_model, memory_type):
    model = make_model(memory_type)
    fingerprint = Fingerprint.of(model)
    assert list(fingerprint.tensors) == sorted(model.state_dict())
    assert len(set(fingerprint.logits)) > 100
    assert Fingerprint.of(model) == fingerprint


def test_it_does_not_depend_on_mode_threads_or_random_state_and_leaves_them(trained):
    expected = Fingerprint.of(trained)
    threads = torch.get_num_threads()
    trained.train()
    torch.manual_seed(5)
    assert Fingerprint.of(trained) == expected
    assert trained.training
    assert torch.get_num_threads() == threads
    trained.eval()


OTHER_PROCESSORS = {
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2,STRICT", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "no AVX": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}


@pytest.mark.parametrize("processor", OTHER_PROCESSORS)
def test_it_does_not_depend_on_the_processor(trained, tmp_path, monkeypatch, processor):
    trained.save_pretrained(tmp_path)
    for name, value in OTHER_PROCESSORS[processor].items():
        monkeypatch.setenv(name, value)
    assert in_fresh_process([tmp_path], seed=1) == [Fingerprint.of(trained)]


def test_a_saved_and_loaded_model_has_the_same(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    assert Fingerprint.of(GMMXLNetForQA.from_pretrained(tmp_path)) == Fingerprint.of(trained)


@pytest.mark.parametrize("bit", [0, 31])
def test_one_changed_bit_of_any_tensor_is_noticed(trained, bit):
    before = Fingerprint.of(trained)
    for name, tensor in trained.state_dict().items():
        element = tensor.view(-1)[-1:].view(torch.int32)
        element ^= 1 << bit if bit < 31 else -(2**31)
        after = Fingerprint.of(trained)
        assert [other for other in before.tensors if after.tensors[other] != before.tensors[other]] == [name]
        element ^= 1 << bit if bit < 31 else -(2**31)
    assert Fingerprint.of(trained) == before


def test_type_shape_and_sign_of_zero_count():
    zeros = torch.zeros(2, 3)
    others = [zeros, zeros.T, zeros.flatten(), zeros.int(), -zeros, zeros.bfloat16(), torch.zeros(())]
    assert len({tensor_hash(tensor) for tensor in others}) == len(others)
    assert tensor_hash(torch.arange(6).view(2, 3).T) == tensor_hash(torch.arange(6).view(2, 3).T.contiguous())


def test_logits_show_how_much_a_change_matters(trained):
    before = Fingerprint.of(trained)
    with torch.no_grad():
        trained.qa_head.bias += 0.25
        after = Fingerprint.of(trained)
        trained.qa_head.bias -= 0.25
    assert before.max_abs_logit_diff(after) == pytest.approx(0.25, abs=1e-5)
    assert before.max_abs_logit_diff(before) == 0
    assert before.max_abs_logit_diff(Fingerprint({}, before.logits[:-1])) == float("inf")


def test_memory_counts_in_the_logits(trained):
    """The probe reads documents of several segments, so what travels between them is seen."""
    before = Fingerprint.of(trained)
    gate = trained.expert_updater.gate_networks[0].bias.data
    gate += 1
    assert before.max_abs_logit_diff(Fingerprint.of(trained)) > 1e-4
    gate -= 1


def test_written_and_read_it_is_the_same(trained, tmp_path):
    fingerprint = Fingerprint.of(trained)
    fingerprint.write(tmp_path)
    assert Fingerprint.read(tmp_path) == fingerprint


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[1, 2]",
        "null",
        '"text"',
        '{"tensors": {}}',
        "\udcff",
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"fingerprint\.json: (damaged|cannot be read|must be an object) "):
        Fingerprint.read(tmp_path)


@pytest.mark.parametrize("key", ["tensors", "logits"])
def test_values_of_another_type_are_refused(trained, tmp_path, key):
    values = {"tensors": {"a": "b"}, "logits": [0.5], key: "text"}
    (tmp_path / FILE_NAME).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged"):
        Fingerprint.read(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"fingerprint\.json: there is no such file; train again"):
        Fingerprint.read(tmp_path)
