"""Adapters: an encoder that stays as it was trained, small matrices beside its projections, a memory trained in full.

LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) by peft, which is imported only here and only when needed. peft
knows nothing of our encoder, so its projections are named exactly; the memory tokens' embeddings, which no pretrained
vocabulary has, are the only ones that are trained.

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

# Matched as a whole: no name is taken for another that begins or ends like it.
PROJECTIONS = r"encoder\.layers\.\d+\.(attention\.(qkv|position|output)|inner|outer)"
ADAPTER_NAME = "default"  # peft's; it stands in the names of parameters, not in files
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names
OWN_WEIGHTS = "memory_and_head.safetensors"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, OWN_WEIGHTS)
_PREFIX = "base_model.model."  # of peft's names in files
WORD_EMBEDDING = "encoder.word_embedding"
LARGEST_SHARE = 0.1  # of its base's size that an adapter should have


class PartlyTrainedEmbedding(nn.Module):
    """Word embeddings of which only the last, the memory tokens', are trained; it looks up what `nn.Embedding` does.

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
        """All embeddings (V + 2·m, d), as of an `nn.Embedding`."""
        return torch.cat([self.words, self.memory_tokens])

    def forward(self, ids_BL: Tensor) -> Tensor:
        """(B, L) ids to (B, L, d)."""
        num_words = len(self.words)
        words_BLd = F.embedding(ids_BL.clamp(max=num_words - 1), self.words)
        memory_BLd = F.embedding((ids_BL - num_words).clamp(min=0), self.memory_tokens)
        return torch.where((ids_BL >= num_words)[..., None], memory_BLd, words_BLd)


def import_peft() -> ModuleType:
    """peft; raises CheckpointError where it is not installed."""
    try:
        import peft
    except ImportError:
        raise CheckpointError("adapters need peft, which is not installed; pip install 'peft>=0.18'") from None
    return peft


def install_adapter(model: PreTrainedModel) -> None:
    """Freeze the encoder and put `model.config.adapter` into it; what else the model has stays trainable.

    A is drawn (seed before) and B is zero: the model computes what it did. Raises CheckpointError without peft.
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
    """What `adapter_config.json` says of a model with this configuration."""
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
    """Whether a parameter of a model with an adapter belongs to it."""
    return re.fullmatch(rf"{PROJECTIONS}\.lora_[AB]\.{ADAPTER_NAME}\.weight", name) is not None


def is_frozen(name: str) -> bool:
    """Whether a parameter of a model with an adapter is the base's."""
    return name.startswith("encoder.") and not is_lora(name) and name != f"{WORD_EMBEDDING}.memory_tokens"


def size_beside_base(model: nn.Module) -> str:
    """How much of its base's size a model's adapter has, with memory and head, counted in parameters; one line."""
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
    """The name that a parameter of the adapter has in peft's file."""
    return _PREFIX + name.replace(f".{ADAPTER_NAME}.", ".")


def name_in_model(key: str) -> str:
    """The parameter that a tensor in peft's file is; for others a name that no parameter has."""
    name = re.sub(r"\.(lora_[AB])\.weight$", rf".\1.{ADAPTER_NAME}.weight", key.removeprefix(_PREFIX))
    return name if is_lora(name) and name_in_file(name) == key else f"{ADAPTER_WEIGHTS}:{key}"


def name_in_adapted_model(name: str, *, has_memory_tokens: bool) -> str:
    """The name that a tensor of the encoder has once the adapter is there."""
    module, kind = name.rsplit(".", 1)
    if re.fullmatch(PROJECTIONS, module):
        return f"{module}.base_layer.{kind}"
    return f"{module}.words" if module == WORD_EMBEDDING and has_memory_tokens else name
