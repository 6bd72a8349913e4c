"""Cuts long texts into pieces that can be encoded one after another, so that memory use does not grow with them.

A piece begins with a space, which the piece before it ends at, so a tokenizer that splits at spaces, or that takes a
word with the space before it, gives the same tokens as for the whole text.
"""

import re
import tempfile
from collections.abc import Iterator

import numpy as np

from gmmxlnet.data.word_encoding import CUT

LONGEST_PIECE = 2**20  # characters that are encoded at once; no paragraph or article of a dataset is as long
PIECE = 2**18  # characters of the pieces of a longer text; a tokenizer takes up to 300 bytes for each
_LOOKED_BACK = 2**12  # characters before the end of a piece, where a space is looked for
_SPACE = re.compile(r"\s")


def pieces(text: str) -> Iterator[tuple[int, int]]:
    """Yields the character ranges (end exclusive) of a text's pieces; a short text is one piece."""
    most = LONGEST_PIECE if len(text) <= LONGEST_PIECE else min(LONGEST_PIECE, PIECE)
    start = 0
    while len(text) - start > most:
        end = start + most
        places = [found.start() for found in CUT.finditer(text, end - min(_LOOKED_BACK, most - 1), end)]
        if not places:  # no space between plain letters: at any white space, else within a word
            places = [found.start() for found in _SPACE.finditer(text, end - min(_LOOKED_BACK, most - 1), end)]
        yield start, (places or [end])[-1]
        start = (places or [end])[-1]
    yield start, len(text)


class GrowingArray:
    """An int32 array that grows in a temporary file, which is then mapped as the arrays of chunks are.

    A text of 100 MB in letters has tokens of more than a gigabyte.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # the mapping needs it, and it is gone with the mapping
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, values: np.ndarray) -> None:
        """Appends the values of an array of any shape, in C order."""
        self._file.write(np.ascontiguousarray(values, np.int32).tobytes())
        self._length += values.size

    def array(self, *shape: int) -> np.ndarray:
        """The array, of this shape; the object must not grow afterwards."""
        self._file.flush()
        if not self._length:  # cannot be mapped
            return np.empty(0, np.int32).reshape(shape)
        return np.memmap(self._file, np.int32, "c").reshape(shape)
