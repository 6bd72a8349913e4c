"""Read and check the BERT to convert, from a folder or the Hub.

What counts is the architecture: an encoder that transformers' `BertModel` computes, with learned absolute positions and
a norm after each residual: BERT, MiniLM, BGE, E5, GTE, TinyBERT, BERT-small and so on, with or without pooler and head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.activations import ACT2FN
from transformers.utils import logging
from transformers.utils.hub import cached_file, extract_commit_hash

from gmmxlnet.errors import CheckpointError, reason_of
from gmmxlnet.messages import said
from gmmxlnet.utils.tensors import UNREADABLE, first_not_finite

SPECIAL_TOKENS = ("pad", "unk", "cls", "sep", "mask")
_HEAD = "cls.predictions.transform.dense.weight"  # present if a checkpoint has a masked language modeling head

# What lies behind other model types, for those that are often taken for a BERT.
_OTHERS = {
    "roberta": "its positions begin at an offset and its texts are separated by two tokens",
    "xlm-roberta": "its positions begin at an offset and its texts are separated by two tokens",
    "camembert": "its positions begin at an offset and its texts are separated by two tokens",
    "mpnet": "its attention has a bias by distance already",
    "distilbert": "it has no token types, and its tensors have other names",
    "electra": "its embeddings may be narrower than its layers",
    "albert": "its layers share their weights",
    "deberta": "its attention is disentangled",
    "deberta-v2": "its attention is disentangled",
    "modernbert": "its positions are rotary and its norms come first",
    "nomic_bert": "its positions are rotary",
    "new": "its positions are rotary",
    "xlnet": "it is an XLNet already: name it as base_model",
    "gmmxlnet": "it is an XLNet with a memory already",
}


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A BERT in float32, in evaluation mode."""

    name: str
    """A Hub id, or the name of a folder without its path."""
    commit: str | None
    license: str | None
    """As its model card says."""
    model: BertModel
    head: nn.Module | None
    """From hidden states (..., d) to scores (..., V) of words; None where the checkpoint has none."""
    tokenizer: PreTrainedTokenizerBase

    @property
    def config(self) -> BertConfig:
        """The encoder's configuration."""
        return self.model.config

    @property
    def text_type(self) -> int:
        """The token type of a text that follows a question."""
        return min(1, self.config.type_vocab_size - 1)


def check_architecture(config: dict[str, Any], source: str) -> None:
    """Raise CheckpointError if `config.json` does not describe an encoder that `BertModel` implements."""

    def refuse(reason: str) -> None:
        raise CheckpointError(f"{source}: {reason}; give a BERT such as MiniLM, BGE, E5, GTE or BERT itself")

    kind = config.get("model_type")
    if kind != "bert":
        why = f" ({_OTHERS[kind]})" if kind in _OTHERS else ""
        refuse(f"is of type {kind!r}, not 'bert'{why}")
    if config.get("auto_map"):
        refuse("is computed by code of its own (auto_map), which is not run here")
    if (positions := config.get("position_embedding_type", "absolute")) != "absolute":
        refuse(f"position_embedding_type is {positions!r}, and only absolute positions are converted")
    for name in ("is_decoder", "add_cross_attention"):
        if config.get(name):
            refuse(f"{name} is true, and only encoders are converted")
    activation = config.get("hidden_act", "gelu")
    if activation not in ACT2FN:
        refuse(f"hidden_act {said(str(activation), 40)!r} is not an activation that transformers knows")
    width, heads = config.get("hidden_size", 768), config.get("num_attention_heads", 12)
    if config.get("embedding_size", width) != width:
        refuse(f"embedding_size {config['embedding_size']} differs from hidden_size {width}")
    if not isinstance(width, int) or not isinstance(heads, int) or heads < 1 or width % heads or width % 2:
        refuse(f"hidden_size {width} must be even and a multiple of num_attention_heads {heads}")


def read_teacher(source: str, *, revision: str | None = None) -> Teacher:
    """A BERT from a folder or the Hub, in float32 and evaluation mode; nothing in it is drawn at random.

    Raises CheckpointError where it cannot be read, is of another architecture, or lacks a tensor or a special token.
    """
    try:
        described, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
        check_architecture(described, source)
        config_file = cached_file(source, "config.json", revision=revision)
        read = {"revision": revision, "dtype": torch.float32, "output_loading_info": True}
        head = None
        with _without_load_report():
            model, loading = BertModel.from_pretrained(source, add_pooling_layer=False, **read)
            if _HEAD in loading["unexpected_keys"]:
                with_head, of_head = BertForMaskedLM.from_pretrained(source, **read)
                head = None if of_head["missing_keys"] else with_head.cls.eval()
    except CheckpointError:
        raise
    except (*UNREADABLE, SafetensorError, HTTPError) as error:
        raise CheckpointError(
            f"{source}: cannot be read as a BERT ({reason_of(error)}); give a folder with config.json, weights and "
            "tokenizer, or a Hub id that this machine can reach"
        ) from None
    for kind in ("missing_keys", "mismatched_keys"):
        if loading[kind]:  # transformers would draw them at random
            first = min(str(name) for name in loading[kind])
            raise CheckpointError(f"{source}: lacks {len(loading[kind])} of the encoder's tensors, such as {first}")
    if (broken := first_not_finite(model.state_dict())) is not None:
        raise CheckpointError(f"{source}: {broken} holds NaN or infinity; get the checkpoint again")
    return Teacher(
        name=Path(source).name if Path(source).is_dir() else source,
        commit=extract_commit_hash(config_file, None),
        license=_license(source, revision),
        model=model.eval(),
        head=head,
        tokenizer=_read_tokenizer(source, revision, model.config.vocab_size),
    )


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Silence transformers' report of unused heads and poolers."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _read_tokenizer(source: str, revision: str | None, vocab_size: int) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, HTTPError) as error:
        raise CheckpointError(f"{source}: its tokenizer cannot be read ({reason_of(error)})") from None
    if not tokenizer.is_fast:
        raise CheckpointError(f"{source}: its tokenizer is not a fast one; give one that has tokenizer.json")
    missing = [name for name in SPECIAL_TOKENS if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise CheckpointError(f"{source}: its tokenizer has no token for {', '.join(missing)}")
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise CheckpointError(
            f"{source}: its tokenizer has ids up to {largest}, its embeddings {vocab_size} rows; they do not belong "
            "together"
        )
    return tokenizer


def _license(source: str, revision: str | None) -> str | None:
    """What the model card's metadata say, if there is one."""
    try:
        path = cached_file(source, "README.md", revision=revision)
        data = ModelCard(Path(path).read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except (OSError, ValueError):
        return None
    found = data.to_dict().get("license")
    return found if isinstance(found, str) else None


def layers_of(model: BertModel) -> list[tuple[nn.Module, dict[str, Tensor]]]:
    """Each layer with its attention's tensors by short names: query, key, value, output; `_bias` for their biases."""
    found = []
    for layer in model.encoder.layer:
        own, dense = layer.attention.self, layer.attention.output.dense
        parts = {"query": own.query, "key": own.key, "value": own.value, "output": dense}
        tensors = {name: part.weight for name, part in parts.items()}
        tensors |= {f"{name}_bias": part.bias for name, part in parts.items()}
        found.append((layer, tensors))
    return found
