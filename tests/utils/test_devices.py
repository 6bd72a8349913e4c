"""What `device` means."""

import pytest
import torch

from gmmxlnet.errors import ConfigError
from gmmxlnet.utils.devices import choose_device


@pytest.mark.parametrize("gpu", [False, True])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, gpu):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    assert choose_device("auto") == torch.device("cuda" if gpu else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="device is cuda, but torch sees no GPU here; use auto or cpu"):
        choose_device("cuda")
