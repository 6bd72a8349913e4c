"""`gmmxlnet pretrain` and `gmmxlnet export`, as a person types them."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import XLNetForQuestionAnsweringSimple

from gmmxlnet.cli import main
from gmmxlnet.data.sample import make_sample
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.sharing.model_card import reported_f1

SIZE = ["--n-layer", "1", "--d-model", "16", "--n-head", "2", "--d-inner", "16", "--length", "32"]
HOW = ["--steps", "2", "--batch-size", "4", "--device", "cpu", "--no-induction-heads"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Prepared by one command and pretrained by another, as on two machines."""
    folder = tmp_path_factory.mktemp("commands")
    articles = make_sample(num_train=60, num_dev=0)["train"]["data"]
    (folder / "text.json").write_text(json.dumps({"data": articles}), encoding="utf-8")
    tokens, output = str(folder / "tokens"), folder / "encoder"
    made = ["--corpus", str(folder / "text.json"), "--tokenizer", "scratch", "--heldout-fraction", "0.1"]
    assert main(["pretrain", *made, "--tokens", tokens, "--tokens-only"]) == 0
    assert not output.exists()
    assert main(["pretrain", "--tokens", tokens, "--output", str(output), *SIZE, *HOW]) == 0
    return output


def test_pretrain_says_what_came_of_it(encoder, tmp_path, capsys):
    again = ["--tokens", str(encoder.parent / "tokens"), "--output", str(tmp_path / "again")]
    assert main(["pretrain", *again, *SIZE, *HOW]) == 0
    said = capsys.readouterr().out
    assert "held out: loss " in said
    assert said.endswith(f"-> {tmp_path / 'again'}\n")
    one, other = ((folder / "model.safetensors").read_bytes() for folder in (encoder, tmp_path / "again"))
    assert one == other


def test_an_encoder_is_exported_in_half_the_bytes(encoder, tmp_path, capsys):
    assert main(["export", str(encoder), str(tmp_path / "small")]) == 0
    whole, small = (load_file(folder / "model.safetensors") for folder in (encoder, tmp_path / "small"))
    assert {tensor.dtype for tensor in small.values()} == {torch.bfloat16}
    assert all(torch.equal(small[name], whole[name].bfloat16()) for name in whole)
    card = (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    content = (tmp_path / "small" / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() in card
    assert capsys.readouterr().out.split("SHA-256 of all tensors ")[1][:64] in card
    assert "text.json" in card
    loaded = XLNetForQuestionAnsweringSimple.from_pretrained(tmp_path / "small", dtype=torch.float32)
    name = "transformer.word_embedding.weight"
    assert torch.equal(loaded.state_dict()[name], whole[name].bfloat16().float())
    assert json.loads((tmp_path / "small" / "pretraining.json").read_text())["parameters"] > 0


def test_a_model_with_memory_is_exported_in_files_of_a_size(make_model, sample_tokenizer, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "gmm")
    sample_tokenizer.save_pretrained(str(tmp_path / "gmm"))
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS), encoding="utf-8")
    options = ["--file-mb", "0.01", "--metrics", str(tmp_path / "metrics.json")]
    assert main(["export", str(tmp_path / "gmm"), str(tmp_path / "small"), *options]) == 0
    assert len(list((tmp_path / "small").glob("*.safetensors"))) > 1
    loaded = GMMXLNetForQA.from_pretrained(tmp_path / "small")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.bfloat16())
    assert reported_f1((tmp_path / "small" / "README.md").read_text(encoding="utf-8"))[1] == 61.5


METRICS = {
    **{"exact_match": 60.5, "f1": 61.5, "total": 10, "null_score_diff_threshold": 0.0},
    **{"HasAns_f1": 50.0, "HasAns_total": 5, "NoAns_f1": 70.0, "NoAns_total": 5},
    "always_no_answer": {"exact_match": 50.0, "f1": 50.0},
}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "--corpus", "text.txt"], "--tokenizer is needed with --corpus"),
        (["pretrain", "--corpus", "missing.txt", "--tokenizer", "scratch"], "missing.txt: cannot be read"),
        (["pretrain", "--tokens", "nowhere"], "nowhere/corpus.json: cannot be read"),
        (["pretrain", "--tokens", "TOKENS", "--length", "32", "--n-head", "5"], "n_head"),
        (["pretrain", "--tokens", "TOKENS", "--length", "4"], "length must be an integer in [16, 65536], not 4"),
        (
            ["pretrain", "--tokens", "TOKENS", "--length", "32", "--learning-rate", "0"],
            "learning_rate must be a number in (0, 1]",
        ),
        (["pretrain", "--tokens", "TOKENS", "--length", "4000"], "fewer than two windows of 4000"),
        (["export", "nowhere", "out"], "nowhere/config.json: there is no such file"),
        (["export", "ENCODER", "out", "--max-mb", "0.001"], "more than 0.001; raise --max-mb"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(encoder, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    places = {"TOKENS": str(encoder.parent / "tokens"), "ENCODER": str(encoder)}
    assert main([places.get(word, word) for word in words]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"gmmxlnet {words[0]}: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
