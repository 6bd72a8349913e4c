"""The pretrained XLNet that a model is built around: read from a folder or the Hub, or refused in one line."""

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, XLNetConfig, XLNetForQuestionAnsweringSimple
from transformers.utils.hub import cached_file, extract_commit_hash

from gmmxlnet.errors import CheckpointError, reason_of
from gmmxlnet.models.xlnet_weights import xlnet_tensors
from gmmxlnet.utils.tensors import UNREADABLE


@dataclass(frozen=True)
class Base:
    """A pretrained XLNet, where it came from, and its commit if that is the Hub."""

    name: str
    commit: str | None
    model: XLNetForQuestionAnsweringSimple

    def encoder_tensors(self) -> dict[str, Tensor]:
        """The encoder's tensors under our names, float32; the span head is not among them."""
        ours = xlnet_tensors(self.model.state_dict())
        return {name: tensor for name, tensor in ours.items() if name.startswith("encoder.")}


def read_base_config(name: str, revision: str | None, **hub: Any) -> XLNetConfig:
    """The configuration of an XLNet checkpoint. Raises CheckpointError.

    Args:
        hub: cache_dir, token and the like, as for transformers' `from_pretrained`.
    """
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, **hub)
    except (OSError, ValueError, HTTPError) as error:
        raise _unreadable(name, error) from None
    if config.model_type != "xlnet":
        raise CheckpointError(f"base_model {name!r} is of type {config.model_type!r}, expected 'xlnet'")
    return config


def read_base(name: str, revision: str | None, **hub: Any) -> Base:
    """An XLNet checkpoint in float32; only its span head may be missing, which is drawn then: seed before.

    Raises CheckpointError where it cannot be read, is no XLNet, or lacks something of the encoder.
    """
    read_base_config(name, revision, **hub)
    try:
        config_file = cached_file(name, "config.json", revision=revision, **hub)
        model, loading = XLNetForQuestionAnsweringSimple.from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True, **hub
        )
    except (*UNREADABLE, SafetensorError, HTTPError) as error:
        raise _unreadable(name, error) from None
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("qa_outputs."))
    if missing:  # transformers would draw them at random
        raise CheckpointError(
            f"base_model {name!r} lacks {len(missing)} of the encoder's tensors, such as {missing[0]}"
        )
    return Base(name, extract_commit_hash(config_file, None), model)


def _unreadable(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"base_model {name!r} cannot be read ({reason_of(error)}); give a Hub id that this machine can reach, "
        "a folder with config.json and model.safetensors, or scratch"
    )
