"""Text becomes token arrays; what cannot be read is refused in one line."""

import json
import shutil

import numpy as np
import pytest

from gmmxlnet.errors import DataError
from gmmxlnet.pretraining.corpus import Corpus, prepare_corpus, read_paragraphs
from gmmxlnet.utils.files import sha256_of


def test_texts_folders_and_squad_files_give_their_paragraphs_once(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "b.txt").write_text("Third one.\n", encoding="utf-8")
    (tmp_path / "texts" / "a.txt").write_bytes("\ufeffFirst\n  one.\n \n\nSecond one.\n\nThird one.".encode())
    asked = {"id": "1", "question": "Which?", "answers": []}
    article = {"paragraphs": [{"context": "Fourth  one.", "qas": [{**asked, "is_impossible": True}]}]}
    (tmp_path / "squad.json").write_text(json.dumps({"data": [article]}), encoding="utf-8")
    found = read_paragraphs([tmp_path / "texts", tmp_path / "squad.json"])
    assert found == ["First one.", "Second one.", "Third one.", "Fourth  one."]


def test_what_is_held_out_is_never_trained_on(corpus):
    words = corpus.tokenizer()
    assert corpus.train.dtype == np.uint16
    assert corpus.manifest["heldout"]["paragraphs"] == 40
    assert corpus.manifest["train"]["tokens"] == len(corpus.train)
    held, trained = (words.decode(tokens) for tokens in (corpus.heldout, corpus.train))
    start = " ".join(held.split()[:60])  # as good as the whole report
    assert "The flag in" in start
    assert start not in " ".join(trained.split())


def test_the_same_text_gives_the_same_folder(text_file, corpus, tmp_path):
    prepare_corpus([text_file], "scratch", tmp_path / "again", heldout_fraction=0.1)
    assert Corpus.open(tmp_path / "again").digest == corpus.digest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, r"missing: cannot be read \(No such file or directory\); name a text file"),
        (lambda path: path.mkdir(), "holds no .txt file; name a folder of text files"),
        (lambda path: path.write_bytes(b"caf\xe9"), "byte 3 is not UTF-8; save the file as UTF-8"),
        (lambda path: path.write_text("One paragraph."), "1 paragraphs, at least 2 are needed"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, make, message):
    make(tmp_path / "missing")
    with pytest.raises(DataError, match=message) as caught:
        prepare_corpus([tmp_path / "missing"], "scratch", tmp_path / "corpus")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "corpus").exists()


def test_a_damaged_corpus_does_not_open(corpus_folder, tmp_path):
    with pytest.raises(DataError, match=r"corpus\.json: cannot be read"):
        Corpus.open(tmp_path)
    shutil.copytree(corpus_folder, tmp_path / "corpus")
    content = bytearray((tmp_path / "corpus" / "train.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "corpus" / "train.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.npy: is not what was written"):
        Corpus.open(tmp_path / "corpus")


def changed(manifest, **change):
    return json.dumps({**json.loads(manifest), **change})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "3", "is not of gmmxlnet-corpus version 1"),
        (lambda text: changed(text, files=[]), "is not what was written: files: "),
        (lambda text: changed(text, files={}), "is not what was written: files lack arrays or tokenizer"),
        (lambda text: changed(text, files=json.loads(text)["files"] | {"../x": "y"}), "names a file outside"),
        (lambda text: changed(text, vocabulary="x"), "is not what was written: vocabulary: "),
        (lambda text: changed(text, train=None), "is not what was written: train: "),
        (lambda text: changed(text, heldout={"tokens": 0}), r"is not what was written: heldout\.paragraphs: "),
        (lambda text: changed(text, sources=[1]), r"is not what was written: sources\.0: "),
        (lambda text: changed(text, vocabulary=70_000), r"train\.npy: holds uint16"),
        (lambda text: changed(text, vocabulary=3), r"train\.npy: has not the tokens"),
        (lambda text: changed(text, vocabulary=60_000), "tokenizer: has not the vocabulary"),
        (lambda text: changed(text, train={"paragraphs": 360, "tokens": 5}), r"train\.npy: has not the tokens"),
    ],
)
def test_an_odd_manifest_is_refused_in_one_line(corpus_folder, tmp_path, damage, reason):
    shutil.copytree(corpus_folder, tmp_path / "corpus")
    path = tmp_path / "corpus" / "corpus.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=rf"corpus[/.][^;]*{reason}.*prepare the corpus again") as caught:
        Corpus.open(tmp_path / "corpus")
    assert "\n" not in str(caught.value)


def test_pickled_objects_in_an_array_are_refused(corpus_folder, tmp_path):
    shutil.copytree(corpus_folder, tmp_path / "corpus")
    array, path = tmp_path / "corpus" / "train.npy", tmp_path / "corpus" / "corpus.json"
    np.save(array, np.array([{}, 1], dtype=object), allow_pickle=True)
    files = json.loads(path.read_text())["files"] | {"train.npy": sha256_of(array)}
    path.write_text(changed(path.read_text(), files=files))
    with pytest.raises(DataError, match=r"train\.npy: .*prepare the corpus again"):
        Corpus.open(tmp_path / "corpus")
