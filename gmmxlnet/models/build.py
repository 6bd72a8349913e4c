"""A model for an experiment: from random weights, or around an encoder that somebody trained."""

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
    """A model with random weights; seed before.

    Args:
        size: `n_layer`, `d_model`, `n_head`, `d_inner`, `dropout`, `initializer_range`.
        tokenizer: the encoder's, without memory tokens.
        memory: the memory's and the losses' keys of `GMMXLNetConfig`.
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
    """A model around a pretrained XLNet (a folder or a Hub id); whatever the checkpoint lacks is drawn: seed before.

    Args:
        adapter: leave the encoder as it is and train LoRA beside it; without it everything is trained.
        recorded_name: what a checkpoint with an adapter shall call the base; `name` when left out.

    Raises CheckpointError where it cannot be read, is no XLNet, or has another vocabulary than the tokenizer.
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
