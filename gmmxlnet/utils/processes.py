"""Processes that work together, one a device, started by `accelerate launch`, torchrun or a stage of the pipeline.

All of them run the same code; each takes its share of the work, and the main one alone writes, logs and talks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that work together; by default it is alone."""

    index: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Self:
        """As torch.distributed says once it is set up."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this one writes and logs."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's items: every `count`-th, so that items sorted by size are shared out evenly."""
        return items[self.index :: self.count]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in each of them, in place; every process must call it."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def from_main(self, value: Item) -> Item:
        """The main process's value, in each of them; every process must call it."""
        box = [value]
        if self.count > 1:
            torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Item) -> list[Item]:
        """Every process's value, in each of them; every process must call it."""
        values = [value] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(values, value)
        return values
