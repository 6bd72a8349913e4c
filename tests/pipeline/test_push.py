"""The push stage without a repository to push to, and what it refuses to push."""

import json
import shutil
from pathlib import Path

import pytest

from gmmxlnet.errors import GMMXLNetError
from pipeline import push
from pipeline.experiment import Experiment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "reports").mkdir()
    (tmp_path / "models" / "gmm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def name_a_repository(workspace):
    text = (workspace / "params.yaml").read_text(encoding="utf-8")
    (workspace / "params.yaml").write_text(text.replace("hub_model_id: null", "hub_model_id: me/mine"), "utf-8")


def test_without_hub_model_id_nothing_is_pushed(workspace):
    push.main()
    report = json.loads((workspace / "reports" / "push.json").read_text(encoding="utf-8"))
    assert report == {"pushed": False, "reason": "hub_model_id is null in params.yaml"}


def test_a_model_that_does_not_reload_is_not_pushed(workspace):
    name_a_repository(workspace)
    (workspace / "reports" / "determinism.json").write_text('{"bit_identical": false}', encoding="utf-8")
    with pytest.raises(GMMXLNetError, match="does not reload bit for bit; not pushed"):
        push.main()


def test_missing_reports_are_named(workspace):
    name_a_repository(workspace)
    with pytest.raises(GMMXLNetError, match=r"reports/determinism\.json: there is no such file"):
        push.main()


def test_an_unreachable_hub_is_one_line_without_the_token(workspace, monkeypatch):
    name_a_repository(workspace)
    parameters = {"memory_type": "none", "profile": "sample"}
    Experiment(parameters=parameters, data="").write(workspace / "models" / "gmm")
    (workspace / "reports" / "determinism.json").write_text('{"bit_identical": true}', encoding="utf-8")
    (workspace / "reports" / "metrics.json").write_text('{"exact_match": 1.0, "f1": 2.0}', encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(GMMXLNetError, match="me/mine: the Hub did not take it") as caught:
        push.main()
    assert "hf_secret" not in str(caught.value)
    assert not (workspace / "reports" / "push.json").exists()
