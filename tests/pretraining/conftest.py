"""A small corpus of the sample world, and an encoder pretrained on it."""

import pytest

from gmmxlnet.data.sample import make_sample
from gmmxlnet.pretraining.corpus import Corpus, prepare_corpus
from gmmxlnet.pretraining.pretrain import pretrain
from gmmxlnet.pretraining.settings import PretrainingSettings


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """400 reports of the sample world as plain text, a paragraph each."""
    path = tmp_path_factory.mktemp("text") / "reports.txt"
    articles = make_sample(num_train=400, num_dev=0)["train"]["data"]
    path.write_text("\n\n".join(article["paragraphs"][0]["context"] for article in articles), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def corpus_folder(text_file):
    folder = text_file.parent / "corpus"
    prepare_corpus([text_file], "scratch", folder, heldout_fraction=0.1)
    return folder


@pytest.fixture(scope="session")
def corpus(corpus_folder):
    return Corpus.open(corpus_folder)


@pytest.fixture(scope="session")
def make_settings():
    """A function to the settings of a miniature."""

    def make(**other):
        size = {"n_layer": 2, "d_model": 64, "n_head": 8, "d_inner": 64, "initializer_range": 0.2, "dropout": 0.0}
        how = {"length": 48, "steps": 240, "batch_size": 16, "learning_rate": 3e-3, "device": "cpu"}
        return PretrainingSettings(**{**size, **how, **other})

    return make


@pytest.fixture(scope="session")
def pretrained(corpus, make_settings, tmp_path_factory):
    """(folder, report) of an encoder."""
    folder = tmp_path_factory.mktemp("models") / "encoder"
    return folder, pretrain(corpus, make_settings(), folder)
