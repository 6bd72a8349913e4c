"""A dataset, a tokenizer, a base model and prepared chunks from the Hub, as the stages read them."""

import io
import json
from pathlib import Path

import datasets
import pytest
import torch
from ruamel.yaml import YAML
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.data import tokenizer as data_tokenizer
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.errors import CheckpointError, DataError
from gmmxlnet.models import pretrained
from gmmxlnet.models.dropout import Dropout
from pipeline import chunk
from pipeline.experiment import folder_hash
from pipeline.params import load_params
from pipeline.training import build_model

ROOT = Path(__file__).resolve().parents[2]
BASE, SQUAD, CHUNKS = "you/xlnet-tiny", "you/squad", "me/chunks"


def rows(num_articles):
    for number in range(num_articles):
        context = f"Anna lives in Oslo {number}."
        common = {"title": f"T{number}", "context": context}
        answers = {"text": ["Oslo"], "answer_start": [14]}
        yield common | {"id": f"{number}a", "question": "Where?", "answers": answers}
        yield common | {"id": f"{number}b", "question": "Who?", "answers": {"text": [], "answer_start": []}}


def parquet(num_articles):
    stream = io.BytesIO()
    datasets.Dataset.from_list(list(rows(num_articles))).to_parquet(stream)
    return stream.getvalue()


@pytest.fixture
def add_base(hub, sample_tokenizer, tmp_path):
    """A function that puts a small XLNet with its tokenizer on the Hub; returns the commit."""

    def add(seed=0, **changes):
        torch.manual_seed(seed)
        size = {"d_model": 16, "n_head": 2, "n_layer": 1, "d_inner": 32} | changes
        folder = tmp_path / "base"
        XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=len(sample_tokenizer), **size)).save_pretrained(folder)
        sample_tokenizer.save_pretrained(folder)
        hub.add(BASE, {file.name: file.read_bytes() for file in folder.iterdir()})
        return hub.repo(BASE).branches["main"]

    return add


@pytest.fixture
def configure(tmp_path, monkeypatch):
    """A function that writes params.yaml with changes to the default profile (or, in `top`, to the top level)."""
    monkeypatch.chdir(tmp_path)

    def configure(top=None, **profile):
        yaml = YAML()
        values = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        values.update(top or {})
        values["profiles"]["sample"].update(profile)
        yaml.dump(values, tmp_path / "params.yaml")
        return load_params()

    return configure


@pytest.fixture
def on_the_hub(hub, add_base):
    """A dataset of 20 and 5 articles, and a base model."""
    files = {"data/train-00000-of-00001.parquet": parquet(20), "data/validation-00000-of-00001.parquet": parquet(5)}
    hub.add(SQUAD, files, "datasets")
    return add_base()


def test_dataset_tokenizer_and_base_model_come_from_the_hub(hub, on_the_hub, add_base, configure):
    hub.repo(BASE).tags["v1"] = on_the_hub
    tag, newest = hub.repo(BASE).files("v1"), add_base(seed=1)
    assert newest != on_the_hub
    assert tag["model.safetensors"] != hub.repo(BASE).files()["model.safetensors"]
    params = configure(dataset=SQUAD, tokenizer=BASE, base_model=BASE, base_model_revision="v1")
    chunk.main()
    report = json.loads(chunk.DATA_REPORT.read_text(encoding="utf-8"))
    assert report["train"]["documents"] + report["calibration"]["documents"] == 40
    assert (report["dev"]["answerable"], report["dev"]["unanswerable"]) == (5, 5)
    model = build_model(params, load_tokenizer(str(chunk.CHUNKS / "tokenizer")))
    torch.manual_seed(0)
    size = {"d_model": 16, "n_head": 2, "n_layer": 1, "d_inner": 32}
    expected = XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=report["vocabulary"], **size))
    vectors = model.encoder.word_embedding.weight[: report["vocabulary"]]
    assert torch.equal(vectors, expected.transformer.word_embedding.weight)
    assert not any("/main" in request or newest in request for request in hub.requests if BASE in request)


@pytest.mark.parametrize(("asked", "expected"), [(None, 0.1), (0.0, 0.0), (0.35, 0.35)])
def test_dropout_is_the_base_models_unless_it_is_set(on_the_hub, configure, sample_tokenizer, asked, expected):
    model = build_model(configure(base_model=BASE, dropout=asked), sample_tokenizer)
    assert {module.p for module in model.encoder.modules() if isinstance(module, Dropout)} == {expected}
    assert model.config.dropout == expected


def test_a_revision_of_the_dataset(hub, on_the_hub, configure):
    repo = hub.repo(SQUAD, "datasets")
    repo.tags["v1"] = repo.branches["main"]
    files = {"data/train-00000-of-00001.parquet": parquet(8), "data/validation-00000-of-00001.parquet": parquet(2)}
    hub.add(SQUAD, files, "datasets")
    for revision, documents in (("v1", 10), (None, 4)):
        configure(dataset=SQUAD, dataset_revision=revision)
        chunk.main()
        assert json.loads(chunk.DATA_REPORT.read_text(encoding="utf-8"))["dev"]["documents"] == documents


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "you/nothing"}, "dataset 'you/nothing': neither a folder here nor readable from the Hub"),
        ({"dataset": SQUAD, "dataset_revision": "v9"}, f"dataset '{SQUAD}': neither"),
        ({"dataset": SQUAD, "tokenizer": "you/nothing"}, "tokenizer 'you/nothing': "),
        (
            {"dataset": SQUAD, "tokenizer": BASE, "base_model": BASE, "base_model_revision": "v9"},
            f"tokenizer '{BASE}': ",
        ),
    ],
)
def test_what_is_not_there_is_one_line(on_the_hub, pauses, configure, change, words):
    configure(**change)
    with pytest.raises(DataError, match=words) as caught:
        chunk.main()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"base_model": "you/nothing"}, {"base_model": BASE, "base_model_revision": "v9"}])
def test_no_such_base_model_is_one_line(on_the_hub, pauses, configure, sample_tokenizer, change):
    with pytest.raises(CheckpointError, match=f"base_model '{change['base_model']}' cannot be read") as caught:
        build_model(configure(**change), sample_tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_huge_file_of_a_tokenizer_is_refused_unread(hub, on_the_hub, monkeypatch, name):
    """A few thousand bytes stand for the gigabytes that reading it would take."""
    most = len(hub.repo(BASE).files()["tokenizer.json"])
    monkeypatch.setattr(data_tokenizer, "MAX_FILE_BYTES", most)
    hub.add(BASE, {name: b" " * most + b"{}"})
    before = len(hub.requests)
    with pytest.raises(DataError, match=rf"tokenizer '{BASE}': {name} has [\d,]+ bytes, and at most") as caught:
        load_tokenizer(BASE)
    assert "\n" not in str(caught.value)
    assert not [request for request in hub.requests[before:] if f"resolve/main/{name}" in request]


def test_a_tokenizer_of_the_hub_prints_none_of_its_keys(hub, on_the_hub, capfd):
    config = json.loads(hub.repo(BASE).files()["tokenizer_config.json"])
    config["unk_token"] = {"__type": "AddedToken", "content": "<unk>", "\x1b[31m": True}
    hub.add(BASE, {"tokenizer_config.json": json.dumps(config).encode()})
    with pytest.raises(DataError, match="a token has the unknown key"):
        load_tokenizer(BASE)
    assert "[31m" not in capfd.readouterr().out


def test_a_tokenizer_of_the_hub_with_too_many_tokens_is_refused(hub, on_the_hub, monkeypatch):
    monkeypatch.setattr(data_tokenizer, "MAX_TOKENS", 10)
    with pytest.raises(DataError, match=r"tokenizer.json: has \d+ tokens, the longest of"):
        load_tokenizer(BASE)


def test_without_the_hub_the_cached_file_counts(hub, on_the_hub, monkeypatch, pauses):
    load_tokenizer(BASE)
    hub.fail(".*", times=100, status=503)
    monkeypatch.setattr(data_tokenizer, "MAX_FILE_BYTES", 100)
    with pytest.raises(DataError, match=rf"tokenizer '{BASE}': .* has [\d,]+ bytes, and at most 100"):
        load_tokenizer(BASE)


def test_a_huge_config_of_a_base_model_is_refused_unread(hub, on_the_hub, monkeypatch):
    monkeypatch.setattr(pretrained, "MAX_JSON_BYTES", 100)
    before = len(hub.requests)
    with pytest.raises(CheckpointError, match=rf"base_model '{BASE}' cannot be read \(config.json has [\d,]+ bytes"):
        pretrained.read_base_config(BASE, None)
    assert not [request for request in hub.requests[before:] if "resolve" in request]


def test_chunks_are_pushed_and_then_read_instead_of_made(hub, on_the_hub, configure, tmp_path, capsys):
    configure({"hub_dataset_id": CHUNKS, "hub_push_chunks": True}, dataset=SQUAD)
    chunk.main()
    made, report = folder_hash(chunk.CHUNKS), chunk.DATA_REPORT.read_bytes()
    asked = len(hub.requests)
    configure({"hub_dataset_id": CHUNKS}, dataset=SQUAD)
    chunk.main()
    assert folder_hash(chunk.CHUNKS) == made
    assert chunk.DATA_REPORT.read_bytes() == report
    assert not any(SQUAD in request for request in hub.requests[asked:])
    assert f"prepared chunks from {CHUNKS}" in capsys.readouterr().out


def test_chunks_of_other_settings_are_refused(hub, on_the_hub, configure):
    configure({"hub_dataset_id": CHUNKS, "hub_push_chunks": True}, dataset=SQUAD)
    chunk.main()
    configure({"hub_dataset_id": CHUNKS, "memory_num_tokens": 2}, dataset=SQUAD)
    with pytest.raises(
        DataError, match=f"^{CHUNKS}: its chunks were made with memory_num_tokens 4 instead of 2; change"
    ):
        chunk.main()


@pytest.mark.parametrize("fault", [{"status": 401}, {"status": 503}, {"cut": True}])
@pytest.mark.parametrize(
    ("read", "route"),
    [
        ("dataset", f"/{SQUAD}"),
        ("dataset", "GET /storage"),
        ("tokenizer", f"/{BASE}"),
        ("base_model", f"/{BASE}"),
        ("base_model", "GET /storage"),
    ],
)
def test_a_hub_in_trouble_is_one_line(hub, on_the_hub, pauses, configure, sample_tokenizer, read, route, fault):
    """Addresses of the storage are signed: what stands after their `?` is as good as a token."""
    configure(**{"dataset": SQUAD, read: SQUAD if read == "dataset" else BASE})
    hub.fail(route, times=10_000, **fault)
    work = chunk.main if read != "base_model" else lambda: build_model(load_params(), sample_tokenizer)
    with pytest.raises((DataError, CheckpointError), match=f"^{read} '") as caught:
        work()
    assert "\n" not in str(caught.value)
    assert "signature" not in str(caught.value)
