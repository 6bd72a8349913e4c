"""The guide's dataset: fixed shapes, any DataLoader."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import XLNetTokenizerFast

from gmmxlnet.data.dataset import ChunkedSquadDataset
from gmmxlnet.data.sources import read_split
from gmmxlnet.data.squad import as_passages
from gmmxlnet.data.tokenizer import add_memory_tokens, scratch_tokenizer
from gmmxlnet.errors import DataError


@pytest.fixture
def tokenizer(dataset_folder: Path) -> XLNetTokenizerFast:
    passages = as_passages(read_split(dataset_folder, "train"), "paragraph")
    return scratch_tokenizer(passage.text for passage in passages)


def dataset(split: str, tokenizer: XLNetTokenizerFast, folder: Path, max_n_segs: int = 2) -> ChunkedSquadDataset:
    return ChunkedSquadDataset(
        split=split,
        tokenizer=tokenizer,
        max_seq_length=32,
        max_n_segs=max_n_segs,
        dataset=folder,
        doc_stride=4,
        max_question_length=10,
    )


def test_items_stack_to_batches(tokenizer: XLNetTokenizerFast, dataset_folder: Path) -> None:
    add_memory_tokens(tokenizer, 2)
    train = dataset("train", tokenizer, dataset_folder)
    assert len(train) == 96
    for batch in DataLoader(train, batch_size=16):
        assert batch["input_ids"].shape == (16, 2, 32)
        assert batch["start_positions"].shape == (16, 2)
        assert (batch["input_ids"][:, 0] >= len(tokenizer) - 4).sum() == 16 * 4  # the memory tokens are there
        assert batch["num_segments"].max() <= 2


def test_validation_is_never_cut(tokenizer: XLNetTokenizerFast, dataset_folder: Path) -> None:
    validation = dataset("validation", tokenizer, dataset_folder, max_n_segs=1)
    most = int(validation.documents.num_segments().max())
    assert most > 1
    batch = next(iter(DataLoader(validation, batch_size=len(validation))))
    assert batch["input_ids"].shape == (24, most, 32)
    assert torch.equal(batch["num_segments"], torch.from_numpy(validation.documents.num_segments()))
    assert validation.documents.question_id(0) == "d0-0-0"


def test_a_tokenizer_without_a_vocabulary_is_refused(dataset_folder: Path) -> None:
    with pytest.raises(DataError, match="its vocabulary is missing"):
        dataset("train", XLNetTokenizerFast(), dataset_folder)
