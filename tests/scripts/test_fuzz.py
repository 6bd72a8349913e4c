"""Some hundred damaged checkpoints and SQuAD files (`make fuzz` runs thousands), and the fuzzing itself."""

import pytest

from gmmxlnet.errors import DataError
from scripts.fuzz import fuzz
from scripts.fuzzing.checkpoints import DAMAGES, CheckpointCases
from scripts.fuzzing.squad import SquadCases


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return CheckpointCases(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def squad(tmp_path_factory):
    return SquadCases(tmp_path_factory.mktemp("squad"))


def test_damaged_checkpoints_are_loaded_right_or_refused(checkpoints):
    outcomes = fuzz(checkpoints, 11, range(250))
    assert outcomes.failures == []
    assert outcomes.total == 250
    refused = sum(count for name, count in outcomes.counts.items() if name.endswith("refused"))
    assert 100 < refused < 250
    assert {name.split(":")[0].removesuffix(" under new hashes") for name in outcomes.counts} == set(DAMAGES)


def test_damaged_squad_files_are_read_right_or_refused(squad):
    outcomes = fuzz(squad, 11, range(400))
    assert outcomes.failures == []
    refused = sum(count for name, count in outcomes.counts.items() if name.endswith("refused"))
    assert 200 < refused < 400


def test_a_case_is_the_same_every_time(squad, checkpoints):
    assert [squad(3, n)[0] for n in range(20)] == [squad(3, n)[0] for n in range(20)]
    checkpoints(3, 5)
    first = {path.name: path.read_bytes() for path in checkpoints.target.iterdir() if path.is_file()}
    checkpoints(3, 5)
    assert {path.name: path.read_bytes() for path in checkpoints.target.iterdir() if path.is_file()} == first


def test_what_is_no_error_of_the_project_is_a_failure(tmp_path):
    def raises(error):
        def read():
            raise error

        return read

    class Cases:
        name = "cases"

        def __call__(self, seed, number):
            return "kind", (raises(DataError("a line")), raises(KeyError("x")), raises(DataError("a\nb")))[number]

    outcomes = fuzz(Cases(), 0, range(3))
    assert outcomes.counts == {"kind: refused": 2, "kind: FAILED": 1}
    assert [failure.split(":")[0] for failure in outcomes.failures] == ["cases 1 (kind)", "cases 2 (kind)"]
    assert "KeyError at " in outcomes.failures[0]
