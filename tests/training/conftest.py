"""What tests of training share."""

import pytest

from gmmxlnet.data.documents import Documents


@pytest.fixture(scope="module")
def documents(sample_chunks):
    """About 36 documents of four segments."""
    return Documents.open(sample_chunks, "train")


@pytest.fixture
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """The Trainer writes to the current folder."""
    monkeypatch.chdir(tmp_path)
