"""Writes and reads `.npy` files.

When one is read, its header is checked against what is expected and against the file's size before data is mapped:
`np.load` alone would allocate whatever a header asks for.
"""

from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError

import numpy as np

from gmmxlnet.errors import DataError, reason_of

_BAD_HEADER = (ValueError, SyntaxError, TokenError, EOFError, OverflowError, MemoryError, RecursionError, TypeError)


class _Writer:
    """A file as NumPy sees one that is not Python's own: NumPy hands it bytes instead of writing to the descriptor."""

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self.write = write


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes what `np.save(path, array)` writes; a full disk raises an OSError that says so, with its `errno`.

    NumPy's own, of a write that was cut short, has none.
    """
    with path.open("wb") as stream:
        np.save(_Writer(stream.write), array, allow_pickle=False)


def read_array(path: Path, dtype: type, columns: int | None = None, *, remedy: str) -> np.ndarray:
    """Memory-maps an array, read-only, of shape (N,), or (N, columns); an empty one is returned as such.

    Raises DataError, with `remedy`, if the file cannot be read or holds anything else, such as pickled objects.
    """
    expected = f"{np.dtype(dtype).name} of shape ({'N,' if columns is None else f'N, {columns}'})"
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("is of another version")
            shape, fortran_order, found = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
        size = path.stat().st_size - start
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except _BAD_HEADER as error:
        raise DataError(f"{path}: is no array ({reason_of(error)}); {remedy}") from None
    if found != np.dtype(dtype) or len(shape) != (1 if columns is None else 2) or shape[1:] not in ((), (columns,)):
        raise DataError(f"{path}: holds {found.name} of shape {shape}, expected {expected}; {remedy}")
    num_values = shape[0] * (columns or 1)
    if type(shape[0]) is not int or shape[0] < 0 or num_values * found.itemsize != size:
        raise DataError(f"{path}: has {size:,} bytes of data, which are not {num_values:,} values; {remedy}")
    if not num_values:  # cannot be mapped
        return np.empty(shape, found)
    return np.memmap(path, found, "r", start, shape, "F" if fortran_order else "C")
