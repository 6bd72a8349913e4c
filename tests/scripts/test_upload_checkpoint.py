"""The guide's way of sharing: `upload_checkpoint`, `model.push_to_hub`, and the command line."""

import os
import sys

import pytest
import torch

from gmmxlnet.errors import CheckpointError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.training import GMMTrainingConfig
from scripts.upload_checkpoint_to_hub import main, upload_checkpoint


@pytest.fixture
def checkpoint(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "final")
    return tmp_path / "final"


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_the_guides_lines(hub, checkpoint):
    config = GMMTrainingConfig(hub_model_id="me/gmm-xlnet-squad", hub_dataset_id="me/memxlnet-squad-mem16")
    upload_checkpoint(checkpoint_path=checkpoint, hub_id=config.hub_model_id, token=os.environ["HF_TOKEN"])
    model = GMMXLNetForQA.from_pretrained("me/gmm-xlnet-squad", revision="best-model")
    assert same(model, GMMXLNetForQA.from_pretrained(checkpoint))
    assert "no scores for this model" in hub.repo("me/gmm-xlnet-squad").files()["README.md"].decode()


def test_a_card_in_the_folder_is_kept(hub, checkpoint):
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\nMine.\n", encoding="utf-8")
    upload_checkpoint(checkpoint, "me/model", tags=["stage-1-segs-2"], private=False)
    assert hub.repo("me/model").files()["README.md"].endswith(b"Mine.\n")
    assert set(hub.repo("me/model").tags) == {"best-model", "stage-1-segs-2"}


def test_what_is_no_checkpoint(hub, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"config\.json: there is no such file; name a folder that save_pretrained wrote"
    ):
        upload_checkpoint(tmp_path, "me/model")


def test_push_to_hub_of_transformers(hub, make_model):
    model = make_model()
    model.push_to_hub("me/pushed", private=True)
    assert hub.repo("me/pushed").private
    assert same(GMMXLNetForQA.from_pretrained("me/pushed"), model)


def test_the_command_line(hub, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["upload", str(checkpoint), "me/model", "--tag", "stage-2-segs-4"])
    assert main() == 0
    assert "tags best-model, stage-2-segs-4" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["upload", str(checkpoint), "you/model"])
    assert main() == 1
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("upload: you/model: the token may not do this here (403)")
    )
