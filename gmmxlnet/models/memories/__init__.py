"""The kinds of memory, one file each: its modules, recurrence, checks of its options, and its description.

`Memory` is the interface that the model, checkpoints and reports use. A new kind is a file here with a subclass of it,
and a line in the registry `KINDS` (`gmmxlnet/memory_kinds.py`, which does not import torch).
"""

from gmmxlnet.memory_kinds import KINDS, MemoryKind
from gmmxlnet.models.memories.interface import Memory, MemoryModule, Speaker

__all__ = ["KINDS", "Memory", "MemoryKind", "MemoryModule", "Speaker"]
