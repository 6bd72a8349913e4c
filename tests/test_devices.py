"""What `device` and `precision` mean."""

import pytest
import torch

from gmmxlnet.devices import autocast_dtype, choose_device, choose_precision, processor_kind
from gmmxlnet.errors import ConfigError


@pytest.mark.parametrize("gpu", [False, True])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, gpu):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    assert choose_device("auto") == torch.device("cuda" if gpu else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="device is cuda, but torch sees no GPU here; use auto or cpu"):
        choose_device("cuda")


def test_a_precision_is_taken_at_its_word_on_any_device():
    for device in (torch.device("cpu"), torch.device("cuda")):
        assert autocast_dtype("bfloat16", device) == torch.bfloat16
        assert autocast_dtype("float16", device) == torch.float16
        assert autocast_dtype("float32", device) is None


@pytest.mark.parametrize("fast", [False, True])
def test_auto_is_bfloat16_where_the_hardware_multiplies_it_faster(monkeypatch, set_processor, fast):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: fast)
    set_processor(amx=fast)
    for device in (torch.device("cpu"), torch.device("cuda")):
        assert autocast_dtype("auto", device) == (torch.bfloat16 if fast else None)
        assert choose_precision("auto", device) == ("bfloat16" if fast else "float32")


@pytest.mark.parametrize(
    ("used", "amx", "kind", "precision"),
    [
        ("AVX2", False, "AVX2", "float32"),
        ("AVX512", False, "AVX512", "float32"),
        ("AVX512", True, "AVX512 with AMX", "bfloat16"),
        ("AVX2", True, "AVX2", "float32"),  # ATEN_CPU_CAPABILITY=avx2
    ],
)
def test_processors_are_told_apart_by_what_they_compute_with(set_processor, used, amx, kind, precision):
    set_processor(used, amx=amx)
    assert processor_kind() == kind
    assert choose_precision("auto", torch.device("cpu")) == precision
