"""Convert a Hugging Face XLNet to ours, the configuration, extended by a memory, and the weights; and back."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.errors import CheckpointError
from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.utils.files import atomic_folder

# Keys of the configuration that an XLNet of transformers shares with ours.
SHARED_KEYS = (
    *("vocab_size", "d_model", "n_layer", "n_head", "d_inner", "ff_activation", "dropout", "initializer_range"),
    *("layer_norm_eps", "clamp_len", "pad_token_id", "bos_token_id", "eos_token_id"),
)
# Keys that describe the file or the class rather than the architecture.
_NOT_ARCHITECTURE = ("architectures", "model_type", "transformers_version", "_name_or_path", "id2label", "label2id")


def extended_config(base: XLNetConfig, *, memory_type: str, memory_slots: int = 0, **memory: object) -> GMMXLNetConfig:
    """Extend an XLNet's configuration by a memory; `vocab_size` grows by the 2·m memory tokens.

    Raises CheckpointError if our encoder does not support the attention of the base model.
    """
    if base.attn_type != "bi" or base.bi_data:
        raise CheckpointError(
            f"base model: attn_type {base.attn_type!r} with bi_data {base.bi_data} is not supported; "
            "XLNet's own checkpoints have attn_type 'bi' and bi_data false"
        )
    keys = {name: value for name, value in base.to_dict().items() if name not in _NOT_ARCHITECTURE}
    if memory_type in KINDS:  # an unknown kind is refused below, with all other invalid values
        keys["vocab_size"] = base.vocab_size + KINDS[memory_type].num_token_ids(memory_slots)
    return GMMXLNetConfig(**{**keys, "memory_type": memory_type, "memory_slots": memory_slots, **memory})


def xlnet_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Map the tensors of an `XLNetForQuestionAnsweringSimple` to our names and shapes.

    XLNet stores q, k, v, o, r as (d, heads, head size); ours are `nn.Linear` weights (out, in), with q, k and v
    concatenated. The mask embedding of the query stream is dropped, since the content stream never uses it.
    """
    ours: dict[str, Tensor] = {"encoder.word_embedding.weight": state["transformer.word_embedding.weight"]}
    num_layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer.layer."))
    for i in range(num_layers):
        attention = f"transformer.layer.{i}.rel_attn."
        layer = f"encoder.layers.{i}."
        q, k, v, r, o = (state[attention + name].flatten(1) for name in "qkvro")
        ours[layer + "attention.qkv.weight"] = torch.cat([q, k, v], dim=1).T
        ours[layer + "attention.position.weight"] = r.T
        ours[layer + "attention.output.weight"] = o
        for name in ("r_w_bias", "r_r_bias", "r_s_bias"):
            ours[layer + f"attention.{name}"] = state[attention + name]
        ours[layer + "attention.segment_embedding"] = state[attention + "seg_embed"]
        for kind in ("weight", "bias"):
            ours[layer + f"attention_norm.{kind}"] = state[attention + f"layer_norm.{kind}"]
            for theirs, name in (("layer_1", "inner"), ("layer_2", "outer"), ("layer_norm", "feed_forward_norm")):
                ours[layer + f"{name}.{kind}"] = state[f"transformer.layer.{i}.ff.{theirs}.{kind}"]
    for kind in ("weight", "bias"):
        ours[f"qa_head.{kind}"] = state[f"qa_outputs.{kind}"]
    return ours


def plain_encoder_tensors(encoder: Any, config: GMMXLNetConfig) -> dict[str, Tensor]:
    """Map the tensors of our encoder to the names and shapes of transformers' XLNet; inverse of `xlnet_tensors`."""
    d, H, h = config.d_model, config.n_head, config.d_head
    state = {"transformer.word_embedding.weight": encoder.word_embedding.weight}
    for i, layer in enumerate(encoder.layers):
        attention, prefix = layer.attention, f"transformer.layer.{i}."
        q, k, v = attention.qkv.weight.chunk(3)
        products = {"q": q.T, "k": k.T, "v": v.T, "r": attention.position.weight.T, "o": attention.output.weight}
        state |= {f"{prefix}rel_attn.{name}": weight.reshape(d, H, h) for name, weight in products.items()}
        for name in ("r_w_bias", "r_r_bias", "r_s_bias"):
            state[f"{prefix}rel_attn.{name}"] = getattr(attention, name)
        state[f"{prefix}rel_attn.seg_embed"] = attention.segment_embedding
        for kind in ("weight", "bias"):
            state[f"{prefix}rel_attn.layer_norm.{kind}"] = getattr(layer.attention_norm, kind)
            for theirs, ours in (("layer_1", "inner"), ("layer_2", "outer"), ("layer_norm", "feed_forward_norm")):
                state[f"{prefix}ff.{theirs}.{kind}"] = getattr(getattr(layer, ours), kind)
    return state


@torch.no_grad()
def as_plain_xlnet(model: Any) -> XLNetForQuestionAnsweringSimple:
    """Convert a `GMMXLNetForQA` without memory to transformers' class, so that it can be a base model.

    The mask embedding, which only the query stream of pretraining uses, is zero. Raises CheckpointError if the model
    has a memory.
    """
    if model.config.memory_type != "none":
        raise CheckpointError(
            f"a model with memory_type {model.config.memory_type} is no plain XLNet, expected one without memory"
        )
    keys = {key: getattr(model.config, key) for key in (*SHARED_KEYS, "sep_token_id")}
    plain = XLNetForQuestionAnsweringSimple(XLNetConfig(**keys))
    state = plain_encoder_tensors(model.encoder, model.config)
    state |= {f"qa_outputs.{kind}": getattr(model.qa_head, kind) for kind in ("weight", "bias")}
    state["transformer.mask_emb"] = torch.zeros_like(plain.transformer.mask_emb)
    plain.load_state_dict(state)
    return plain.eval()


def save_plain_xlnet(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write `as_plain_xlnet(model)` and its tokenizer to a folder, complete or absent. Raises CheckpointError."""
    plain = as_plain_xlnet(model)
    with atomic_folder(folder) as scratch:
        plain.save_pretrained(scratch)
        tokenizer.save_pretrained(str(scratch))


@torch.no_grad()
def convert_xlnet_weights(base_model: XLNetForQuestionAnsweringSimple, model: Any) -> None:
    """Copy encoder and head into `model` (a `GMMXLNetForQA`), cast to its dtype; memory tokens are not changed.

    Raises CheckpointError if a shape differs.
    """
    own = model.state_dict()
    for name, tensor in xlnet_tensors(base_model.state_dict()).items():
        target = own[name]
        if name == "encoder.word_embedding.weight":
            target = target[: len(tensor)]
        if target.shape != tensor.shape:
            raise CheckpointError(f"base model: {name} has shape {tuple(tensor.shape)}, expected {tuple(target.shape)}")
        target.copy_(tensor)
    speaker = model.memory.speaker(model)
    if speaker is not None:  # scale what is read to the mean norm of the encoder's word embeddings
        speaker.norm.copy_(base_model.get_input_embeddings().weight.norm(dim=-1).mean())
