"""An encoder pretrained on plain text learns, loads everywhere, and is the same after a kill."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, XLNetForQuestionAnsweringSimple

from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.errors import CheckpointError
from gmmxlnet.models.build import pretrained_model
from gmmxlnet.pretraining.masking import MaskedSpanCollator
from gmmxlnet.pretraining.model import MaskedSpanXLNet, as_xlnet
from gmmxlnet.pretraining.pretrain import REPORT, pretrain

NO_MEMORY = {"memory_type": "none", "memory_slots": 0, "num_memory_experts": 0}


class KilledError(Exception):
    """Stands for kill -9."""


class Kill(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KilledError


def batch_of(corpus, settings, windows=4):
    collator = MaskedSpanCollator.of(
        corpus.heldout, corpus.tokenizer(), length=settings.length, mask_share=settings.mask_share, seed=settings.seed
    )
    return collator(range(windows))


def test_it_learns_more_than_the_frequencies_of_words(pretrained):
    folder, report = pretrained
    found = report["heldout"]
    assert found["loss"] < found["unigram_loss"] - 1
    assert found["masked_accuracy"] > 2 * found["unigram_accuracy"]
    assert json.loads((folder / REPORT).read_text(encoding="utf-8")) == report
    with (folder / "pretraining.csv").open(encoding="utf-8") as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 1


def test_the_folder_is_a_base_model_for_an_experiment_and_an_xlnet_for_transformers(pretrained, corpus, make_settings):
    folder, _ = pretrained
    ours = pretrained_model(str(folder), None, load_tokenizer(str(folder)), NO_MEMORY).eval()
    theirs = XLNetForQuestionAnsweringSimple.from_pretrained(folder).eval()
    batch = batch_of(corpus, make_settings())
    ids, types, mask = (batch[name] for name in ("input_ids", "token_type_ids", "attention_mask"))
    encoder = ours.encoder
    L = ids.shape[1]
    with torch.no_grad():
        here = encoder(encoder.word_embedding(ids), mask, types, encoder.position_keys(L, L))
        there = theirs.transformer(input_ids=ids, token_type_ids=types, attention_mask=mask, use_mems=False)[0]
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
    assert here.std() > 0.1


def test_transformers_language_model_predicts_the_same_words(corpus, make_settings):
    torch.manual_seed(0)
    settings = make_settings(initializer_range=0.5)
    model = MaskedSpanXLNet(settings.encoder_config(corpus.tokenizer())).eval()
    torch.nn.init.normal_(model.word_bias)
    batch = batch_of(corpus, settings)
    xlnet = as_xlnet(model)
    with torch.no_grad():
        output = model(**batch)
        labels = batch.pop("labels")
        scores = xlnet(**batch, use_mems=False).logits[labels >= 0]
    loss = torch.nn.functional.cross_entropy(scores, labels[labels >= 0])
    torch.testing.assert_close(loss, output.loss, rtol=1e-4, atol=1e-4)


def test_killed_and_resumed_it_ends_with_the_same_bits(corpus, make_settings, tmp_path):
    settings = make_settings(steps=12, dropout=0.1)
    pretrain(corpus, settings, tmp_path / "straight")
    with pytest.raises(KilledError):
        pretrain(corpus, settings, tmp_path / "killed", save_steps=5, callbacks=[Kill(8)])
    assert not (tmp_path / "killed").exists()
    assert (tmp_path / ".killed.resume" / "step-00000005").is_dir()
    with pytest.raises(CheckpointError, match=r"mask_share 0\.15, not 0\.2"):
        pretrain(corpus, make_settings(steps=12, dropout=0.1, mask_share=0.2), tmp_path / "killed")
    pretrain(corpus, settings, tmp_path / "killed")
    for name in ("pretraining.csv", REPORT):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "straight"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / ".killed.resume").exists()
