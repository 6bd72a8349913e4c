"""`Memory`: the interface of a kind of memory, to be subclassed in a file of this package."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from transformers import initialization as init

from gmmxlnet.models.recurrence import Recurrence

if TYPE_CHECKING:
    from gmmxlnet.models.configuration import GMMXLNetConfig

NOISE = 0.3  # in near-identity initial weights, relative to a random matrix that preserves lengths


class MemoryModule(nn.Module):
    """A memory's module, which initializes itself after its children were initialized."""

    def initialize(self, config: "GMMXLNetConfig") -> None:
        """Draw the initial parameters from torch's generator."""
        raise NotImplementedError


class Speaker(Protocol):
    """The module that projects what is read from memory to the space of word embeddings."""

    norm: nn.Parameter
    """(1,): the length of these vectors; with a pretrained encoder, the mean norm of its word embeddings."""

    def as_embeddings(self, read_Bmd: Tensor) -> Tensor:
        """Map what was read (B, m, d) to the vectors that are injected (B, m, d)."""


class Memory:
    """A kind of memory, for one configuration.

    The model calls `modules` once when it is built, and `recurrence` once per forward pass. This object holds no state:
    parameters belong to the modules, and the recurrence's `State` is passed from segment to segment.
    """

    description: ClassVar[str]
    """Human-readable; its {fields} are parameters of an experiment: memory_num_tokens, num_memory_experts, …"""

    def __init__(self, config: "GMMXLNetConfig") -> None:
        self.config = config

    def check(self) -> None:
        """Raise ConfigError if options contradict each other."""

    def modules(self) -> dict[str, nn.Module]:
        """Return new modules by their names in the model, which prefix their tensors in a checkpoint."""
        return {}

    def recurrence(self, model: Any, num_documents: int, length: int) -> Recurrence[Any] | None:
        """Return the recurrence for one batch of documents; None if segments are read independently.

        Args:
            model: the `GMMXLNetForQA`, with this memory's modules.
            length: L, tokens of a segment.
        """
        raise NotImplementedError

    def speaker(self, model: Any) -> Speaker | None:
        """Return the module that maps what was read to word embeddings; None if the memory has no such module."""
        return None

    @staticmethod
    def sizes(size: Callable[[str, int], int | None], count: Callable[[str], int]) -> dict[str, int | None]:
        """Return the configuration values that follow from a checkpoint's tensors, to compare with its config.json.

        Args:
            size: maps (tensor's name, dimension) to its size; None if there is no such tensor.
            count: maps a prefix to the number of different names below it.
        """
        return {}


def near_identity(linear: nn.Linear, *, bias: float = 0.0) -> None:
    """Initialize weights (d, ≥ d) to the identity on the last d inputs plus noise N(0, 0.3²/inputs).

    The output is about a copy of the last d inputs, so no gate or tanh starts saturated.
    """
    outputs, inputs = linear.weight.shape
    noise = torch.randn(outputs, inputs) * NOISE * inputs**-0.5
    noise[:, inputs - outputs :] += torch.eye(outputs)
    init.copy_(linear.weight, noise)
    if linear.bias is not None:
        init.constant_(linear.bias, bias)
