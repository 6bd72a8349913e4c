"""What is wrong is told once, however it was found."""

import pytest

from gmmxlnet.data.faults import FaultList
from gmmxlnet.errors import DataError, DatasetError


@pytest.mark.parametrize("wrap", [lambda text: DataError(text), lambda text: DatasetError([text], 1)])
def test_the_same_fault_of_both_splits_is_one(wrap):
    faults = FaultList()
    for message in ("the Hub cannot be reached", "the Hub cannot be reached", "the file is empty"):
        with faults.collecting():
            raise wrap(message)
    with pytest.raises(DatasetError) as caught:
        faults.raise_any()
    assert (caught.value.faults, caught.value.count) == (["the Hub cannot be reached", "the file is empty"], 2)


def test_those_that_are_only_counted_stay_counted():
    faults = FaultList()
    for place in ("train", "dev"):
        with faults.collecting():
            raise DatasetError([f"{place}: fault {i}" for i in range(20)], 35)
    with pytest.raises(DatasetError, match=r"and 50 more faults like these$"):
        faults.raise_any()
