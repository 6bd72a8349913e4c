"""No memory: each segment is read alone. The baseline of every comparison."""

from typing import Any

from gmmxlnet.models.memories.interface import Memory


class NoMemory(Memory):
    """`none`."""

    description = "no memory: each segment is read alone"

    def recurrence(self, model: Any, num_documents: int, length: int) -> None:
        """None: no segment waits for another."""
        return None
