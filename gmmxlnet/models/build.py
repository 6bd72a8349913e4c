"""A model for an experiment: from random weights, or around an encoder that somebody trained."""

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedTokenizerBase, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import CheckpointError
from gmmxlnet.models.configuration import TOKEN_MEMORY_TYPES, GMMXLNetConfig
from gmmxlnet.models.convert import convert_xlnet_weights, extended_config
from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA
from gmmxlnet.models.induction import start_with_induction_heads


def scratch_model(size: dict[str, Any], tokenizer: PreTrainedTokenizerBase, memory: dict[str, Any]) -> GMMXLNetForQA:
    """A model with random weights; seed before.

    Args:
        size: `n_layer`, `d_model`, `n_head`, `d_inner`, `dropout`, `initializer_range`.
        tokenizer: the encoder's, without memory tokens.
        memory: the memory's and the losses' keys of `GMMXLNetConfig`.
    """
    num_memory_tokens = 2 * memory["memory_slots"] if memory["memory_type"] in TOKEN_MEMORY_TYPES else 0
    config = GMMXLNetConfig(
        **size,
        **memory,
        vocab_size=len(tokenizer) + num_memory_tokens,
        pad_token_id=tokenizer.pad_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GMMXLNetForQA(config)
    start_with_induction_heads(model)
    return model


def pretrained_model(
    name: str, revision: str | None, tokenizer: PreTrainedTokenizerBase, memory: dict[str, Any]
) -> GMMXLNetForQA:
    """A model around a pretrained XLNet (a folder or a Hub id); whatever the checkpoint lacks is drawn: seed before.

    Raises CheckpointError where it cannot be read, is no XLNet, or has another vocabulary than the tokenizer.
    """
    try:
        base_config = AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None
    if base_config.model_type != "xlnet":
        raise CheckpointError(f"base_model {name!r} is of type {base_config.model_type!r}, expected 'xlnet'")
    if base_config.vocab_size != len(tokenizer):
        raise CheckpointError(
            f"base_model {name!r} has a vocabulary of {base_config.vocab_size}, the tokenizer one of {len(tokenizer)}; "
            "set tokenizer to the one that belongs to the base model"
        )
    try:
        base, loading = XLNetForQuestionAnsweringSimple.from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _unreadable(name, error) from None
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("qa_outputs."))
    if missing:  # transformers would draw them at random
        raise CheckpointError(
            f"base_model {name!r} lacks {len(missing)} of the encoder's tensors, such as {missing[0]}"
        )
    model = GMMXLNetForQA(extended_config(base.config, **memory))
    convert_xlnet_weights(base, model)
    return model


def _unreadable(name: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0]
    return CheckpointError(
        f"base_model {name!r} cannot be read ({reason}); give a Hub id that this machine can reach, "
        "a folder with config.json and model.safetensors, or scratch"
    )
