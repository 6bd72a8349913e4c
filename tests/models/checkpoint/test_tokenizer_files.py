"""A model that was loaded and is saved elsewhere answers from there."""

import os
import shutil

import pytest

from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.folder_files import TOKENIZER_FILES
from gmmxlnet.models import GMMXLNetForQA

QUESTION, TEXT = "Who is the baker?", "Report 3. The flag is red today. The baker is Clara. Under red the host is Anna."


def tokenizer_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in TOKENIZER_FILES}


def answer(folder):
    return GMMXLNetForQA.from_pretrained(folder).answer(QUESTION, TEXT, threshold=1e9)


def test_it_takes_its_tokenizer_along_from_folder_to_folder(sample_checkpoint, tmp_path):
    GMMXLNetForQA.from_pretrained(sample_checkpoint).save_pretrained(tmp_path / "one")
    GMMXLNetForQA.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    assert tokenizer_files(tmp_path / "two") == tokenizer_files(sample_checkpoint)
    assert set(tokenizer_files(tmp_path / "two")) >= {"tokenizer.json", "tokenizer_config.json"}
    assert answer(tmp_path / "two") == answer(sample_checkpoint)


def test_a_tokenizer_that_lies_there_is_left(sample_checkpoint, sample_tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text("another", encoding="utf-8")
    GMMXLNetForQA.from_pretrained(sample_checkpoint).save_pretrained(tmp_path)
    assert tokenizer_files(tmp_path) == {"tokenizer.json": b"another"}
    sample_tokenizer.save_pretrained(tmp_path)
    assert answer(tmp_path) == answer(sample_checkpoint)


def test_a_model_that_came_without_one_is_saved_without(make_model, sample_checkpoint, tmp_path):
    make_model().save_pretrained(tmp_path / "new")
    assert not tokenizer_files(tmp_path / "new")
    folder = shutil.copytree(sample_checkpoint, tmp_path / "bare")
    for name in tokenizer_files(folder):
        (folder / name).unlink()
    GMMXLNetForQA.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert not tokenizer_files(tmp_path / "again")


def test_a_link_is_followed_in_the_hubs_cache_alone(sample_checkpoint, tmp_path):
    cache = tmp_path / "models--me--model"
    folder = shutil.copytree(sample_checkpoint, cache / "snapshots" / "0123abc")
    (cache / "blobs").mkdir()
    (tmp_path / "secret").write_text("{}", encoding="utf-8")
    (folder / "tokenizer.json").rename(cache / "blobs" / "4567def")
    (folder / "tokenizer.json").symlink_to(os.path.relpath(cache / "blobs" / "4567def", folder))
    (folder / "vocab.json").symlink_to(tmp_path / "secret")
    GMMXLNetForQA.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert tokenizer_files(tmp_path / "copy") == tokenizer_files(sample_checkpoint)
    assert not (tmp_path / "copy" / "tokenizer.json").is_symlink()
    assert answer(tmp_path / "copy") == answer(sample_checkpoint)


@pytest.mark.parametrize("revision", [None, "main"])
def test_from_the_hub_too(hub, sample_checkpoint, tmp_path, revision):
    hub.add("me/model", {path.name: path.read_bytes() for path in sample_checkpoint.iterdir()})
    GMMXLNetForQA.from_pretrained("me/model", revision=revision).save_pretrained(tmp_path)
    assert tokenizer_files(tmp_path) == tokenizer_files(sample_checkpoint)
    assert load_tokenizer(str(tmp_path)).get_vocab() == load_tokenizer(str(sample_checkpoint)).get_vocab()
