"""Distributed processes, one per device, started by `accelerate launch`, torchrun or a pipeline stage.

All processes run the same code on their share of the work; only the main process writes, logs and prints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Processes:
    """Rank and number of the distributed processes; a single process by default."""

    index: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Self:
        """Returns the values from torch.distributed, if initialized."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this process writes and logs."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Returns this process's items: every `count`-th, so that items sorted by size are distributed evenly."""
        return items[self.index :: self.count]

    def sum(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over all processes in place (all-reduce); every process must call it."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def from_main(self, value: Item) -> Item:
        """Broadcasts the main process's value; every process must call it."""
        box = [value]
        if self.count > 1:
            torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Item) -> list[Item]:
        """Gathers the values of all processes in each of them; every process must call it."""
        values = [value] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(values, value)
        return values
