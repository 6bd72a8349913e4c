"""No memory: each segment is read independently. The baseline of every comparison."""

from typing import Any

from gmmxlnet.models.memories.interface import Memory


class NoMemory(Memory):
    """Memory type `none`."""

    description = "no memory: each segment is read alone"

    def recurrence(self, model: Any, num_documents: int, length: int) -> None:
        """Return None: segments are independent."""
        return None
