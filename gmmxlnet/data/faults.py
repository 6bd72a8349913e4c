"""All faults of a dataset in one run: the first twenty in words, each with its place and remedy, the rest counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gmmxlnet.errors import DataError

MOST = 20  # faults told in words


class DatasetError(DataError):
    """The faults of a dataset: a line for each of the first twenty, and a last one that counts the rest."""

    def __init__(self, faults: list[str], count: int) -> None:
        self.faults, self.count = faults[:MOST], count
        more = count - len(self.faults)
        lines = [*self.faults, *([f"and {more:,} more fault{'s' * (more > 1)} like these"] if more else [])]
        super().__init__("\n".join(lines))


class FaultList:
    """Collects faults; raises them together."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.count = 0

    def add(self, describe: Callable[[], str]) -> None:
        """One fault more; it is put into words only where they will be shown."""
        self.count += 1
        if len(self.faults) < MOST:
            self.faults.append(describe())

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep the data errors of the block, so that what follows can be looked at too."""
        try:
            yield
        except DatasetError as error:
            self.faults = [*self.faults, *error.faults][:MOST]
            self.count += error.count
        except DataError as error:
            message = str(error)
            if message not in self.faults:  # as of a Hub that cannot be reached, for each split
                self.add(lambda: message)

    def raise_any(self) -> None:
        """Raise DatasetError if there was a fault."""
        if self.count:
            raise DatasetError(self.faults, self.count)
