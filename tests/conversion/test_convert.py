"""`gmmxlnet convert` as a person types it, and what it leaves as transformers sees it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoTokenizer, XLNetModel

from gmmxlnet.cli import main
from gmmxlnet.conversion.convert import convert
from gmmxlnet.conversion.settings import ConversionSettings
from gmmxlnet.errors import ConfigError
from gmmxlnet.models.build import pretrained_model
from gmmxlnet.models.xlnet_weights import xlnet_tensors

SIZE = {"max_length": 96, "tokens_per_step": 400, "precision": "float32", "device": "cpu"}
OPTIONS = ["--max-length", "96", "--tokens-per-step", "400", "--precision", "float32", "--device", "cpu"]

PLAIN = """
import json, sys, torch
from transformers import AutoTokenizer, XLNetForQuestionAnsweringSimple
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = XLNetForQuestionAnsweringSimple.from_pretrained(folder).eval()
batch = tokenizer(["the oven is cold.", "anna."], ["who is cold?", "who?"], padding=True, return_tensors="pt")
with torch.no_grad():
    hidden = model.transformer(**batch).last_hidden_state
print(json.dumps({"ids": batch.input_ids.tolist(), "mask": batch.attention_mask.tolist(),
    "types": batch.token_type_ids.tolist(), "hidden": hidden.tolist(), "mems": model.config.mem_len,
    "modules": [name for name in sys.modules if name.startswith("gmmxlnet")]}))
"""


@pytest.fixture(scope="module")
def converted(bert_folder, text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-xlnet"
    report = convert(str(bert_folder), folder, [text_file], ConversionSettings(steps=30, learning_rate=3e-3, **SIZE))
    return folder, report


def test_plain_transformers_in_another_process_computes_what_our_encoder_does(converted, tmp_path):
    folder, _ = converted
    environment = os.environ | {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", PLAIN, str(folder)], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    theirs = json.loads(ran.stdout)
    assert theirs["modules"] == []
    assert theirs["mems"] is None
    ids, mask, types = (torch.tensor(theirs[name]) for name in ("ids", "mask", "types"))
    assert mask[1].tolist() != sorted(mask[1].tolist(), reverse=True)  # padded on the left
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = pretrained_model(str(folder), None, tokenizer, {"memory_type": "none"}).eval()
    assert model.config.sep_token_id == tokenizer.sep_token_id
    with torch.no_grad():
        encoder, L = model.encoder, ids.shape[1]
        ours = encoder(encoder.word_embedding(ids), mask, types, encoder.position_keys(L, L))
    there = mask.bool()
    torch.testing.assert_close(torch.tensor(theirs["hidden"])[there], ours[there], rtol=1e-4, atol=1e-5)


def test_the_report_says_how_close_it_is_after_each_step(converted):
    folder, report = converted
    assert json.loads((folder / "conversion.json").read_text(encoding="utf-8")) == report
    after = report["after"]
    assert list(after) == ["algebra", "positions", "distillation"]
    last = [after[step]["cosine_by_layer"][-1] for step in after]
    assert last[2] > last[0]
    assert all(len(figures["cosine_by_layer"]) == 4 for figures in after.values())
    assert set(after["distillation"]["cosine_by_distance"]) == {"<cls>", "question", "text 0-63", "text 64-127"}
    assert after["distillation"]["masked_words"]["read_by"] == "the teacher's masked language model's head"
    assert report["source"]["name"] == "tiny-bert"
    assert report["source"]["license"] == "mit"
    assert report["distillation"]["steps"] == 30
    assert str(folder.parent) not in (folder / "conversion.json").read_text(encoding="utf-8")


def test_the_card_tells_source_license_and_corpus(converted):
    folder, report = converted
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit"
    for words in (report["corpus"]["sha256"], "tiny-bert", "--steps 30 --seed", "Citation", "held-out"):
        assert words in card.text.replace("\n  ", " ")
    assert str(folder.parent) not in card.text


def test_the_same_bits_again_and_nothing_left_behind(converted, bert_folder, text_file, tmp_path, capsys):
    folder, _ = converted
    again = tmp_path / "again"
    options = [*OPTIONS, "--steps", "30", "--learning-rate", "3e-3"]
    assert main(["convert", str(bert_folder), str(again), "--text", str(text_file), *options]) == 0
    assert "30 steps on" in capsys.readouterr().out
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (again / "conversion.json").read_bytes() == (folder / "conversion.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_without_steps_it_is_algebra_and_positions(bert_folder, text_file, tmp_path):
    report = convert(str(bert_folder), tmp_path / "out", [text_file], ConversionSettings(steps=0, **SIZE))
    assert report["distillation"]["tokens_read"] == 0
    assert report["after"]["positions"]["cosine_by_layer"][-1] > 0.5


def test_a_bert_without_head_is_measured_by_its_embeddings(bert_folder, make_bert, text_file, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(bert_folder, folder)
    make_bert().bert.save_pretrained(folder)
    report = convert(str(folder), tmp_path / "out", [text_file], ConversionSettings(steps=0, **SIZE))
    assert "nearest word embedding" in report["after"]["algebra"]["masked_words"]["read_by"]


def test_rows_that_no_token_uses_are_left_out(bert_folder, make_bert, wordpiece, text_file, tmp_path):
    folder = tmp_path / "padded"
    shutil.copytree(bert_folder, folder)
    make_bert(vocab_size=len(wordpiece) + 8).save_pretrained(folder)
    convert(str(folder), tmp_path / "out", [text_file], ConversionSettings(steps=0, **SIZE))
    assert XLNetModel.from_pretrained(tmp_path / "out").config.vocab_size == len(wordpiece)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "OUT", "--text", "TEXT"], "nowhere: cannot be read as a BERT"),
        (["BERT", "OUT", "--text", "missing.txt"], "missing.txt: cannot be read"),
        (["BERT", "OUT", "--text", "TEXT", "--max-length", "300"], "more than the 128 positions of tiny-bert"),
        (["BERT", "OUT", "--text", "TEXT", "--max-length", "20"], "max_length must be an integer >= 80"),
        (["BERT", "OUT", "--text", "TEXT", "--minutes", "0"], "minutes must be a number > 0"),
        (["BERT", "OUT", "--text", "TEXT", "--steps", "-1"], "steps must be an integer >= 0"),
        (["BERT", "OUT", "--text", "TEXT", "--precision", "int8"], "precision must be one of"),
        (["BERT", "BERT", "--text", "TEXT"], "is there already and is no converted encoder"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(bert_folder, text_file, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    places = {"BERT": str(bert_folder), "TEXT": str(text_file), "OUT": "out"}
    first, *rest = (places.get(word, word) for word in words)
    assert main(["convert", first, *OPTIONS, "--steps", "1", *rest]) == 1  # the last of two options counts
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("gmmxlnet convert: ")
    assert message in error
    assert not (tmp_path / "out").exists()
    assert (bert_folder / "model.safetensors").exists()


def test_settings_refuse_a_ridge_below_zero():
    with pytest.raises(ConfigError, match="ridge must be a number >= 0"):
        ConversionSettings(ridge=-1.0)


def test_weights_are_those_of_xlnet(converted):
    """No tensor is left at what transformers draws: the encoder's are all written, the query stream's is finite."""
    folder, _ = converted
    state = XLNetModel.from_pretrained(folder).state_dict()
    assert state["mask_emb"].isfinite().all()
    named = {f"transformer.{name}": tensor for name, tensor in state.items()}
    head = {"qa_outputs.weight": torch.zeros(2, 32), "qa_outputs.bias": torch.zeros(2)}
    ours = xlnet_tensors({**named, **head})
    assert all(tensor.isfinite().all() for tensor in ours.values())
    assert (ours["encoder.layers.0.attention.segment_embedding"] != 0).all()


def test_a_bert_on_the_hub_is_named_with_its_commit(hub, bert_folder, text_file, tmp_path):
    files = {path.name: path.read_bytes() for path in bert_folder.iterdir()}
    repo = hub.add("me/bert", files)
    report = convert("me/bert", tmp_path / "out", [text_file], ConversionSettings(steps=0, **SIZE))
    assert report["source"]["name"] == "me/bert"
    assert report["source"]["commit"] == repo.find("main")
    assert report["source"]["license"] == "mit"
    assert ModelCard.load(tmp_path / "out" / "README.md").data.base_model == "me/bert"
