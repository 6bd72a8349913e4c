"""Data: from SQuAD files to documents, segments and batches.

`ChunkedSquadDataset` is imported lazily: it needs `datasets` and `pyarrow`, which models do not.
"""

from typing import Any

__all__ = ["ChunkedSquadDataset"]


def __getattr__(name: str) -> Any:
    if name != "ChunkedSquadDataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gmmxlnet.data.dataset import ChunkedSquadDataset

    return ChunkedSquadDataset
