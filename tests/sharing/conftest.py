"""Chunks are shared as they were made: the small dataset of the data tests."""

from tests.data.conftest import dataset_folder  # noqa: F401 (a fixture)
