"""Small data sets that users reported: each is read, or refused in words."""

from pathlib import Path

import pytest

from gmmxlnet.data.chunks import build_chunks
from gmmxlnet.errors import DataError
from tests.data.test_chunks import settings_for


@pytest.mark.parametrize("case", ["one-short-document", "combining-marks", "no-spaces", "integer-ids", "no-title"])
def test_every_answer_has_a_label(shared_folder: Path, tmp_path: Path, case: str) -> None:
    report = build_chunks(settings_for(shared_folder / "cases" / case, calibration_fraction=0), tmp_path / "chunks")
    for split in ("train", "dev"):
        assert report[split]["left_out"] == {}
        assert report[split]["answers"]["inside_a_segment"] == report[split]["documents"] > 0


@pytest.mark.parametrize(
    ("case", "num_faults", "words"),
    [("two-faults", 4, "set it to 12"), ("lone-surrogate", 2, r"\ud83d is a lone surrogate")],
)
def test_faults_are_told(shared_folder: Path, tmp_path: Path, case: str, num_faults: int, words: str) -> None:
    with pytest.raises(DataError) as caught:
        build_chunks(settings_for(shared_folder / "cases" / case), tmp_path / "chunks")
    assert len(str(caught.value).split("\n")) == num_faults
    assert words in str(caught.value)
