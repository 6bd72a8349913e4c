"""What several test folders share: chunks of a few small documents, and small real models that fit them."""

import json
import logging

import pytest
import torch

from gmmxlnet.data.chunks import ChunkSettings, build_chunks
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA

torch.set_num_threads(1)  # these models are so small that threads only wait for each other
SLOTS = 2


FLAGS = ("red", "blue", "green")
PEOPLE = ("Anna", "Boris", "Clara", "David", "Edith", "Frank")


def question(question_id, text, context, answer=None, **marks):
    """A SQuAD v2 question; without an answer it is unanswerable."""
    answers = [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}]
    return {"id": question_id, "question": text, "answers": answers, "is_impossible": answer is None, **marks}


def article(name, context, questions):
    return {"title": name, "paragraphs": [{"context": context, "qas": questions}]}


def report(name, number):
    """About a hundred words, four segments: a flag at the start, who is host under each flag at the end."""
    flag, guests = FLAGS[number % 3], [PEOPLE[(number + j) % 6] for j in range(4)]
    hosts = " ".join(f"Under {f} the host is {guest}." for f, guest in zip(FLAGS, guests, strict=False))
    remarks = " ".join(f"House number {n} has a new roof and two doors." for n in range(6 + number % 3))
    context = f"Report {number}. The flag is {flag} today. The baker is {guests[3]}. {remarks} {hosts}"
    host = guests[FLAGS.index(flag)]
    asked = [("cross", "Who is the host today?", host), ("local", "Who is the baker?", guests[3])]
    asked.append(("unanswerable", "Who is the pilot?", None))
    return article(
        name,
        context,
        [
            question(f"{name}-{i}", text, context, answer, question_type=kind, condition=flag)
            for i, (kind, text, answer) in enumerate(asked)
        ],
    )


def short_article(name, answer):
    """One sentence, a single segment, and two questions without a type."""
    context = f"The mayor is {answer}."
    asked = [("Who is the mayor?", answer), ("Who is the pilot?", None)]
    return article(name, context, [question(f"{name}-{i}", text, context, a) for i, (text, a) in enumerate(asked)])


def pytest_collection_modifyitems(items):
    """Files with slow tests first: what the last of several workers is left with is then soon done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def restore_log_levels():
    """A test that runs a command in this process leaves what others log as it was."""
    loggers = [logging.getLogger(name) for name in ("gmmxlnet", "pipeline")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture
def set_processor(monkeypatch):
    """A function that has torch name another processor: the instructions it computes with, and whether it has AMX."""

    def set_it(kind="AVX512", *, amx):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: kind)
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": amx})

    return set_it


@pytest.fixture(scope="session")
def make_chunks(tmp_path_factory):
    """A function from training and dev articles to a chunks folder, in segments of 48 tokens."""

    def make(train, dev):
        folder = tmp_path_factory.mktemp("dataset")
        for split, articles in (("train", train), ("dev", dev)):
            dataset = {"version": "v2.0", "data": articles}
            (folder / f"{split}.json").write_text(json.dumps(dataset), encoding="utf-8")
        settings = ChunkSettings(
            dataset=str(folder),
            tokenizer="scratch",
            max_seq_length=48,
            doc_stride=8,
            memory_num_tokens=SLOTS,
            max_question_length=16,
            calibration_fraction=0.25,
            seed=0,
        )
        build_chunks(settings, folder / "chunks")
        return folder / "chunks"

    return make


@pytest.fixture(scope="session")
def sample_chunks(make_chunks):
    """Ten reports of four segments and two single sentences to evaluate; 16 reports for training and calibration."""
    dev = [*(report(f"dev-{i}", i + 3) for i in range(10)), short_article("a", "Anna"), short_article("b", "Boris")]
    return make_chunks([report(f"train-{i}", i) for i in range(16)], dev)


@pytest.fixture(scope="session")
def one_context_chunks(make_chunks):
    """As the others, but all dev questions ask about one report."""
    return make_chunks([report(f"train-{i}", i) for i in range(16)], [report("dev", 3)])


@pytest.fixture(scope="session")
def sample_tokenizer(sample_chunks):
    return load_tokenizer(str(sample_chunks / "tokenizer"))


@pytest.fixture(scope="session")
def dev_documents(sample_chunks):
    return Documents.open(sample_chunks, "dev")


@pytest.fixture(scope="session")
def make_model(dev_documents):
    """A function from memory type (and other configuration) to a small random model for these documents."""

    def make(memory_type="gmm", **other):
        torch.manual_seed(0)
        config = GMMXLNetConfig(
            vocab_size=dev_documents.layout.vocab_size + KINDS[memory_type].num_token_ids(SLOTS),
            **{"d_model": 16, "n_head": 2, "n_layer": 1, "d_inner": 32, "initializer_range": 0.5, "dropout": 0.0},
            sep_token_id=dev_documents.layout.sep_id,
            memory_type=memory_type,
            num_memory_experts=3 if memory_type == "gmm" else 0,
            memory_slots=SLOTS,
            **other,
        )
        return GMMXLNetForQA(config).eval()

    return make


@pytest.fixture(scope="session")
def sample_checkpoint(make_model, sample_tokenizer, dev_documents, tmp_path_factory):
    """The folder of a small random model as the train stage leaves it, with layout and tokenizer; not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = make_model()
    model.config.segment_layout = dev_documents.layout.lengths()
    model.save_pretrained(folder)
    sample_tokenizer.save_pretrained(folder)
    return folder
