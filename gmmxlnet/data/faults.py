"""Reports all faults of a dataset at once: the first twenty with place and remedy, the rest as a count."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gmmxlnet.errors import DataError

MOST = 20  # faults described in full


class DatasetError(DataError):
    """The faults of a dataset: one line for each of the first twenty and a last line with the number of others."""

    def __init__(self, faults: list[str], count: int) -> None:
        self.faults, self.count = faults[:MOST], count
        more = count - len(self.faults)
        lines = [*self.faults, *([f"and {more:,} more fault{'s' * (more > 1)} like these"] if more else [])]
        super().__init__("\n".join(lines))


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
            self.faults = [*self.faults, *error.faults][:MOST]
            self.count += error.count
        except DataError as error:
            message = str(error)
            if message not in self.faults:  # e.g. an unreachable Hub fails for every split
                self.add(lambda: message)

    def raise_any(self) -> None:
        """Raises DatasetError if there was a fault."""
        if self.count:
            raise DatasetError(self.faults, self.count)
