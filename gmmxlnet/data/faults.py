"""Reports all faults of a dataset at once: the first twenty with place and remedy, the rest as a count."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gmmxlnet.errors import DataError, DatasetError

MOST = 20  # faults described in full


class FaultList:
    """Collects faults and raises them together."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.count = 0

    def add(self, describe: Callable[[], str]) -> None:
        """Adds a fault; `describe` is called only if its text will be shown."""
        self.count += 1
        if len(self.faults) < MOST:
            self.faults.append(describe())

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collects the block's data errors, so that later parts can still be checked."""
        try:
            yield
        except DatasetError as error:
            self._extend(error.faults, error.count)
        except DataError as error:
            self._extend([str(error)], 1)

    def _extend(self, faults: list[str], count: int) -> None:
        """Adds faults that are described already, but not those that are there, as of a Hub that fails each split."""
        new = [fault for fault in faults if fault not in self.faults]
        self.faults = [*self.faults, *new][:MOST]
        self.count += count - (len(faults) - len(new))

    def raise_any(self) -> None:
        """Raises DatasetError if there was a fault."""
        if self.count:
            raise DatasetError(self.faults, self.count)
