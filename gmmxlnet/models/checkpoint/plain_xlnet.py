"""Load checkpoints of transformers' own `XLNetForQuestionAnsweringSimple` as a model without memory.

They have no manifest, so altered values cannot be detected; names, shapes and dtypes are checked strictly.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple
from transformers.initialization import no_init_weights

from gmmxlnet.errors import CheckpointError, reason_of
from gmmxlnet.messages import said
from gmmxlnet.models.checkpoint.requested import apply_asked
from gmmxlnet.models.checkpoint.weights import DTYPES, read_headers, read_old_weights, read_tensors
from gmmxlnet.models.configuration import BY_TRANSFORMERS, GMMXLNetConfig
from gmmxlnet.models.xlnet_weights import extended_config, xlnet_tensors
from gmmxlnet.utils.tensors import first_not_finite

_INSTEAD = "GMMXLNetForQA(base_model=XLNetForQuestionAnsweringSimple.from_pretrained(...), num_experts=...)"


def load_xlnet(cls: type, folder: Path, values: dict[str, Any], *, asked: dict[str, Any], use_safetensors: bool) -> Any:
    """Load a model of memory type `none` with the same weights and outputs. Raises CheckpointError."""
    base, config = _configs(folder, values)
    if asked.get("memory_type", "none") not in ("none", "standard") or asked.get("use_gmm_memory"):
        raise CheckpointError(
            f"{folder}: is a plain XLNet without memory, expected memory_type {asked.get('memory_type', 'gmm')}; call "
            f"GMMXLNetForQA.from_pretrained without memory_type to load it as it is, or {_INSTEAD} to add a memory"
        )
    wanted = apply_asked(config, {key: value for key, value in asked.items() if key != "memory_type"}, folder)
    found: Mapping[str, Any] = read_headers(folder) if use_safetensors else read_old_weights(folder)
    layers = {name.split(".")[2] for name in found if name.startswith("transformer.layer.")}
    words = found.get("transformer.word_embedding.weight")
    if len(layers) != base.n_layer or words is None or tuple(words.shape) != (base.vocab_size, base.d_model):
        raise CheckpointError(
            f"{folder}: config.json says {base.n_layer} layers and {base.vocab_size} x {base.d_model} embeddings, the "
            f"weights have {len(layers)} and {'none' if words is None else tuple(words.shape)}; get both from one place"
        )
    _check(folder, base, found)
    tensors = read_tensors(found) if use_safetensors else found
    bad = first_not_finite(tensors)
    if bad is not None:
        raise CheckpointError(f"{folder}: {bad} holds NaN or infinity, expected numbers; get the checkpoint again")
    with torch.device("meta"), no_init_weights():
        model = cls(wanted)
    model.load_state_dict({name: x.contiguous() for name, x in xlnet_tensors(dict(tensors)).items()}, assign=True)
    return model


def _configs(folder: Path, values: dict[str, Any]) -> tuple[XLNetConfig, GMMXLNetConfig]:
    """Return the XLNet's own configuration, and ours without memory."""
    own = {**values, "model_type": GMMXLNetConfig.model_type}
    for key in ("memory_type", "version"):
        if own.pop(key, "standard") not in ("standard", "none"):
            raise CheckpointError(
                f"{folder}: its model_type is 'xlnet', yet config.json has {key} {values[key]!r}; expected 'gmmxlnet'"
            )
    config = GMMXLNetConfig.from_dict(own)  # checks all values
    try:
        base = XLNetConfig.from_dict(values)
    except (StrictDataclassError, *BY_TRANSFORMERS) as error:
        raise CheckpointError(f"{folder}: config.json: {reason_of(error)}") from None
    return base, extended_config(base, memory_type=config.memory_type)


def _check(folder: Path, base: XLNetConfig, found: Any) -> None:
    """Check names, shapes and dtypes against transformers' class."""
    with torch.device("meta"), no_init_weights():
        expected: dict[str, Tensor] = XLNetForQuestionAnsweringSimple(base).state_dict()
    if not any(name.startswith("qa_outputs.") for name in found):
        raise CheckpointError(
            f"{folder}: is an XLNet without a span head (qa_outputs), expected XLNetForQuestionAnsweringSimple; to "
            f"train one call {_INSTEAD}"
        )
    missing, stray = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or stray:
        which = f"lacks {missing[0]}" if missing else f"holds {said(stray[0], 80)!r}, which it has not"
        raise CheckpointError(f"{folder}: {which}; expected the tensors of XLNetForQuestionAnsweringSimple")
    for name, tensor in expected.items():
        if tuple(found[name].shape) != tuple(tensor.shape):
            raise CheckpointError(
                f"{folder}: {name} has the shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
            )
    dtypes = {DTYPES.get(x.dtype, x.dtype) for x in found.values()}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES.values()):
        kinds, known = (", ".join(names) for names in (sorted(map(str, dtypes)), DTYPES))
        raise CheckpointError(f"{folder}: the tensors are {kinds}, expected all in one of {known}")
