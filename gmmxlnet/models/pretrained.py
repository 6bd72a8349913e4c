"""Read the pretrained XLNet that a model is built around, from a folder or the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, XLNetConfig, XLNetForQuestionAnsweringSimple
from transformers.utils.hub import cached_file, extract_commit_hash

from gmmxlnet.errors import CheckpointError, reason_of
from gmmxlnet.hub_files import check_sizes
from gmmxlnet.models.xlnet_weights import xlnet_tensors
from gmmxlnet.utils.files import MAX_JSON_BYTES, is_unusable
from gmmxlnet.utils.tensors import UNREADABLE


@dataclass(frozen=True)
class Base:
    """A pretrained XLNet, its source, and its commit if the source is the Hub."""

    name: str
    commit: str | None
    model: XLNetForQuestionAnsweringSimple

    def encoder_tensors(self) -> dict[str, Tensor]:
        """Return the encoder's tensors (float32) under our names, without the span head."""
        ours = xlnet_tensors(self.model.state_dict())
        return {name: tensor for name, tensor in ours.items() if name.startswith("encoder.")}


def read_base_config(name: str, revision: str | None, **hub: Any) -> XLNetConfig:
    """Read the configuration of an XLNet checkpoint. Raises CheckpointError.

    Args:
        hub: cache_dir, token and further arguments of transformers' `from_pretrained`.
    """
    file = Path(name, "config.json")
    if is_unusable(file, MAX_JSON_BYTES):
        raise CheckpointError(
            f"{file}: is no regular file, or has more than {MAX_JSON_BYTES:,} bytes; get the checkpoint again"
        )
    try:
        place = {key: hub[key] for key in ("token", "cache_dir") if key in hub}
        check_sizes(name, ["config.json"], MAX_JSON_BYTES, revision=revision, **place)
        config = AutoConfig.from_pretrained(name, revision=revision, **hub)
    except (OSError, ValueError, HTTPError) as error:
        raise _unreadable(name, error) from None
    if config.model_type != "xlnet":
        raise CheckpointError(f"base_model {name!r} is of type {config.model_type!r}, expected 'xlnet'")
    return config


def read_base(name: str, revision: str | None, **hub: Any) -> Base:
    """Read an XLNet checkpoint in float32; a missing span head is initialized at random: set the seed first.

    Raises CheckpointError if the checkpoint cannot be read, is not an XLNet, or lacks a tensor of the encoder.
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
    if missing:  # transformers would initialize them at random
        raise CheckpointError(
            f"base_model {name!r} lacks {len(missing)} of the encoder's tensors, such as {missing[0]}"
        )
    return Base(name, extract_commit_hash(config_file, None), model)


def _unreadable(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"base_model {name!r} cannot be read ({reason_of(error)}); give a Hub id that this machine can reach, "
        "a folder with config.json and model.safetensors, or scratch"
    )
