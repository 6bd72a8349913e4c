"""What a kind of memory offers to the rest of the library: `Memory`, to be subclassed in a file beside this one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from transformers import initialization as init

from gmmxlnet.models.recurrence import Recurrence

if TYPE_CHECKING:
    from gmmxlnet.models.configuration import GMMXLNetConfig

NOISE = 0.3  # of near-identity initial weights, relative to a random matrix that preserves lengths


class MemoryModule(nn.Module):
    """A module of a memory that initializes itself; its children are initialized before it."""

    def initialize(self, config: "GMMXLNetConfig") -> None:
        """Draw the initial parameters from torch's generator."""
        raise NotImplementedError


class Speaker(Protocol):
    """The module that turns what is read from memory into vectors in the space of word embeddings."""

    norm: nn.Parameter
    """(1,): the length of these vectors; a pretrained encoder sets it to that of its word embeddings."""

    def as_embeddings(self, read_Bmd: Tensor) -> Tensor:
        """(B, m, d) as read to (B, m, d) as injected."""


class Memory:
    """A kind of memory, for one configuration.

    The model calls `modules` once, when it is built, and `recurrence` once a forward pass. Nothing here is saved:
    parameters belong to the modules, what travels belongs to the recurrence's `State`.
    """

    description: ClassVar[str]
    """For people; its {fields} are parameters of an experiment: memory_num_tokens, num_memory_experts, …"""

    def __init__(self, config: "GMMXLNetConfig") -> None:
        self.config = config

    def check(self) -> None:
        """Raise ConfigError where options contradict each other."""

    def modules(self) -> dict[str, nn.Module]:
        """New modules by their names in the model, which are the prefixes of their tensors in a checkpoint."""
        return {}

    def recurrence(self, model: Any, num_documents: int, length: int) -> Recurrence[Any] | None:
        """The memory as one batch of documents is read; None where segments are read independently.

        Args:
            model: the `GMMXLNetForQA`, with this memory's modules.
            length: L, tokens of a segment.
        """
        raise NotImplementedError

    def speaker(self, model: Any) -> Speaker | None:
        """The module that says in word embeddings what was read; None where nothing can be read that way."""
        return None

    @staticmethod
    def sizes(size: Callable[[str, int], int | None], count: Callable[[str], int]) -> dict[str, int | None]:
        """Configuration keys that a checkpoint's tensors reveal, to be compared with its config.json.

        Args:
            size: (tensor's name, dimension) to its size; None where there is no such tensor.
            count: prefix to the number of different names below it.
        """
        return {}


def near_identity(linear: nn.Linear, *, bias: float = 0.0) -> None:
    """Initialize (d, ≥ d) weights to the identity on the last d inputs plus noise N(0, 0.3²/inputs).

    The output is mostly a copy of the last d inputs, so no gate or tanh starts saturated.
    """
    outputs, inputs = linear.weight.shape
    noise = torch.randn(outputs, inputs) * NOISE * inputs**-0.5
    noise[:, inputs - outputs :] += torch.eye(outputs)
    init.copy_(linear.weight, noise)
    if linear.bias is not None:
        init.constant_(linear.bias, bias)
