"""Build the model of an experiment, from random weights or around a pretrained encoder."""

from dataclasses import asdict
from typing import Any

from transformers import PreTrainedTokenizerBase

from gmmxlnet.errors import CheckpointError
from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.models.adapter_settings import AdapterSettings, AdapterSize
from gmmxlnet.models.adapters import install_adapter
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA
from gmmxlnet.models.induction import start_with_induction_heads
from gmmxlnet.models.pretrained import read_base, read_base_config
from gmmxlnet.models.xlnet_weights import convert_xlnet_weights, extended_config
from gmmxlnet.utils.tensors import weights_hash


def scratch_model(size: dict[str, Any], tokenizer: PreTrainedTokenizerBase, memory: dict[str, Any]) -> GMMXLNetForQA:
    """Build a model with random weights; set the seed first.

    Args:
        size: `n_layer`, `d_model`, `n_head`, `d_inner`, `dropout`, `initializer_range`.
        tokenizer: the encoder's tokenizer, without memory tokens.
        memory: keys of `GMMXLNetConfig` for the memory and the losses.
    """
    config = GMMXLNetConfig(
        **size,
        **memory,
        vocab_size=len(tokenizer) + KINDS[memory["memory_type"]].num_token_ids(memory.get("memory_slots", 0)),
        pad_token_id=tokenizer.pad_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GMMXLNetForQA(config)
    start_with_induction_heads(model)
    return model


def pretrained_model(
    name: str,
    revision: str | None,
    tokenizer: PreTrainedTokenizerBase,
    memory: dict[str, Any],
    *,
    adapter: AdapterSize | None = None,
    recorded_name: str | None = None,
) -> GMMXLNetForQA:
    """Build a model around a pretrained XLNet (a folder or a Hub id); new modules are random: set the seed first.

    Args:
        adapter: freeze the encoder and train a LoRA adapter of this size; if None, all weights are trained.
        recorded_name: name of the base model in the checkpoint of an adapter; defaults to `name`.

    Raises CheckpointError if it cannot be read, is not an XLNet, or its vocabulary size differs from the tokenizer's.
    """
    vocab_size = read_base_config(name, revision).vocab_size
    if vocab_size != len(tokenizer):
        raise CheckpointError(
            f"base_model {name!r} has a vocabulary of {vocab_size}, the tokenizer one of {len(tokenizer)}; "
            "set tokenizer to the one that belongs to the base model"
        )
    base = read_base(name, revision)
    model = GMMXLNetForQA(extended_config(base.model.config, **memory))
    convert_xlnet_weights(base.model, model)
    if adapter is not None:
        settings = AdapterSettings(
            **asdict(adapter),
            base_model=recorded_name or name,
            base_revision=base.commit,
            base_sha256=weights_hash(base.encoder_tensors()),
        )
        model.config.adapter = settings.to_dict()
        install_adapter(model)
    return model
