"""The kinds of memory, one file each: its modules, its recurrence, the rules for its options, its sentence for people.

`KINDS` names them. `Memory` is what the model, checkpoints and reports ask of a kind; a new one is a file here with a
subclass, and a line in `KINDS` (`gmmxlnet/memory_kinds.py`, which needs no torch).
"""

from gmmxlnet.memory_kinds import KINDS, MemoryKind
from gmmxlnet.models.memories.interface import Memory, MemoryModule, Speaker

__all__ = ["KINDS", "Memory", "MemoryKind", "MemoryModule", "Speaker"]
