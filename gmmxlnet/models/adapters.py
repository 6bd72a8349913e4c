"""Adapters: the encoder is frozen, LoRA matrices are added to its projections, and the memory is trained in full.

LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) comes from peft, which is imported only here and only when
needed. peft has no preset for our encoder, so the target modules are given by name. Of the word embeddings only those
of the memory tokens are trained, since no pretrained vocabulary contains them.

Shapes: B documents, L tokens, V words of the base's vocabulary, m slots, d hidden size.
"""

import re
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedConfig, PreTrainedModel

from gmmxlnet.errors import CheckpointError
from gmmxlnet.models.adapter_settings import AdapterSettings

if TYPE_CHECKING:
    import peft

# peft matches the whole name against this pattern.
PROJECTIONS = r"encoder\.layers\.\d+\.(attention\.(qkv|position|output)|inner|outer)"
ADAPTER_NAME = "default"  # peft's default; part of the parameters' names in the model, but not in files
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names
OWN_WEIGHTS = "memory_and_head.safetensors"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, OWN_WEIGHTS)
_PREFIX = "base_model.model."  # prefix of peft's names in files
WORD_EMBEDDING = "encoder.word_embedding"
LARGEST_SHARE = 0.1  # largest recommended size of an adapter relative to its base model


class PartlyTrainedEmbedding(nn.Module):
    """Like `nn.Embedding`, but only the last rows, the memory tokens' embeddings, are trained.

    words: (V, d), frozen. memory_tokens: (2·m, d).
    """

    def __init__(self, embedding: nn.Embedding, num_memory_tokens: int) -> None:
        super().__init__()
        words_Vd, memory_tokens = embedding.weight.detach().split(
            [embedding.num_embeddings - num_memory_tokens, num_memory_tokens]
        )
        self.words = nn.Parameter(words_Vd.clone(), requires_grad=False)
        self.memory_tokens = nn.Parameter(memory_tokens.clone())

    @property
    def weight(self) -> Tensor:
        """All embeddings (V + 2·m, d), like `nn.Embedding.weight`."""
        return torch.cat([self.words, self.memory_tokens])

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Look up ids (B, L); returns (B, L, d)."""
        num_words = len(self.words)
        words_BLd = F.embedding(ids_BL.clamp(max=num_words - 1), self.words)
        memory_BLd = F.embedding((ids_BL - num_words).clamp(min=0), self.memory_tokens)
        return torch.where((ids_BL >= num_words)[..., None], memory_BLd, words_BLd)


def import_peft() -> ModuleType:
    """Import and return peft. Raises CheckpointError if it is not installed."""
    try:
        import peft
    except ImportError:
        raise CheckpointError("adapters need peft, which is not installed; pip install 'peft>=0.18'") from None
    return peft


def install_adapter(model: PreTrainedModel) -> None:
    """Freeze the encoder and add the adapter of `model.config.adapter` to it; all other modules stay trainable.

    A is random (set the seed first) and B is zero, so the outputs do not change. Raises CheckpointError without peft.
    """
    peft = import_peft()
    if model.config.has_memory_tokens:
        model.encoder.word_embedding = PartlyTrainedEmbedding(
            model.encoder.word_embedding, 2 * model.config.memory_num_tokens
        )
    peft.inject_adapter_in_model(lora_config(model.config), model, adapter_name=ADAPTER_NAME)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_frozen(name))


def lora_config(config: PreTrainedConfig) -> "peft.LoraConfig":
    """Return the peft configuration, saved as `adapter_config.json`, of a model with this configuration."""
    settings = AdapterSettings.from_dict(config.adapter)
    return import_peft().LoraConfig(
        base_model_name_or_path=settings.base_model,
        revision=settings.base_revision,
        target_modules=PROJECTIONS,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        inference_mode=True,
    )


def is_lora(name: str) -> bool:
    """Whether a parameter with this name belongs to the adapter."""
    return re.fullmatch(rf"{PROJECTIONS}\.lora_[AB]\.{ADAPTER_NAME}\.weight", name) is not None


def is_frozen(name: str) -> bool:
    """Whether a parameter with this name belongs to the frozen base model."""
    return name.startswith("encoder.") and not is_lora(name) and name != f"{WORD_EMBEDDING}.memory_tokens"


def size_beside_base(model: nn.Module) -> str:
    """Describe in one line the number of trained parameters (adapter, memory, head) relative to the base model's."""
    sizes = {True: 0, False: 0}
    for name, parameter in model.named_parameters():
        sizes[is_frozen(name)] += parameter.numel()
    share = sizes[False] / sizes[True]
    if share <= LARGEST_SHARE:
        return f"{share:.1%} of its base's size"
    return (
        f"{share:.1%} of its base's size, more than {LARGEST_SHARE:.0%}: memory and head are trained in full; fewer "
        "experts or a lower rank make it smaller"
    )


def name_in_file(name: str) -> str:
    """Map the name of an adapter's parameter to its key in peft's file."""
    return _PREFIX + name.replace(f".{ADAPTER_NAME}.", ".")


def name_in_model(key: str) -> str:
    """Map a key in peft's file to the parameter's name; an unknown key is mapped to a name that no parameter has."""
    name = re.sub(r"\.(lora_[AB])\.weight$", rf".\1.{ADAPTER_NAME}.weight", key.removeprefix(_PREFIX))
    return name if is_lora(name) and name_in_file(name) == key else f"{ADAPTER_WEIGHTS}:{key}"


def name_in_adapted_model(name: str, *, has_memory_tokens: bool) -> str:
    """Map the name of an encoder's tensor to its name after the adapter was installed."""
    module, kind = name.rsplit(".", 1)
    if re.fullmatch(PROJECTIONS, module):
        return f"{module}.base_layer.{kind}"
    return f"{module}.words" if module == WORD_EMBEDDING and has_memory_tokens else name
