"""The push stage: nothing without a repository, all of it with one, and what it refuses to push."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from gmmxlnet.errors import GMMXLNetError
from gmmxlnet.models import GMMXLNetForQA
from pipeline import push, upload
from pipeline.experiment import Experiment
from pipeline.params import load_params
from pipeline.variants import overridden

ROOT = Path(__file__).resolve().parents[2]
NAME = "me/mine"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "reports").mkdir()
    (tmp_path / "models" / "gmm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(workspace, make_model):
    """A workspace in which everything before the push is done; its reports are the repository's."""
    change(workspace, "\nhub_model_id:", f"\nhub_model_id: {NAME}")
    model = workspace / "models" / "gmm"
    make_model().save_pretrained(model)
    parameters = {"memory_type": "gmm", "num_memory_experts": 3, "routing_mode": "write-based", "profile": "sample"}
    parameters |= {"seed": 13, "memory_num_tokens": 2, "memory_heads": 4, "routing_temperature": 1.0}
    Experiment(parameters=parameters, data="").write(model)
    (workspace / "reports" / "determinism.json").write_text('{"bit_identical": true}', encoding="utf-8")
    shutil.copy(ROOT / "reports" / "metrics.json", workspace / "reports")
    return workspace


def change(workspace, old, new):
    text = (workspace / "params.yaml").read_text(encoding="utf-8")
    assert old in text
    (workspace / "params.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")


def test_without_hub_model_id_nothing_is_pushed(workspace):
    push.main()
    report = json.loads((workspace / "reports" / "push.json").read_text(encoding="utf-8"))
    assert report == {"pushed": False, "reason": "hub_model_id is null in params.yaml"}


def test_the_model_stands_on_the_hub_with_its_scores(hub, trained):
    change(trained, "progressive_segments:  ", "progressive_segments: [2, 4]  ")
    before = {file.name: file.read_bytes() for file in (trained / "models" / "gmm").iterdir()}
    push.main()
    first = (trained / "reports" / "push.json").read_bytes()
    report, repo = json.loads(first), hub.repo(NAME)
    tags = ["best-model", "gmm-k3-write", "stage-2-segs-4"]
    assert report["pushed"]
    assert report["tags"] == tags
    assert repo.tags == dict.fromkeys(tags, report["commit"])
    metrics = json.loads((trained / "reports" / "metrics.json").read_text(encoding="utf-8"))
    assert repo.messages[-1] == f"gmm-k3-write: EM {metrics['exact_match']:.2f}, F1 {metrics['f1']:.2f}"
    card = ModelCard(repo.files()["README.md"].decode())
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores == {name: metrics[name] for name in ("exact_match", "f1")}
    assert {file.name: file.read_bytes() for file in (trained / "models" / "gmm").iterdir()} == before
    push.main()
    assert (trained / "reports" / "push.json").read_bytes() == first
    assert len(repo.commits) == 2
    GMMXLNetForQA.from_pretrained(NAME, revision="stage-2-segs-4")


@pytest.mark.parametrize(("segments", "tags"), [(None, []), ([6], ["stage-1-segs-6"]), ([2, 4, 8], ["stage-3-segs-8"])])
def test_the_tag_of_the_last_stage(segments, tags):
    assert upload.stage_tags(segments) == tags


def test_a_model_that_does_not_reload_is_not_pushed(hub, trained):
    (trained / "reports" / "determinism.json").write_text('{"bit_identical": false}', encoding="utf-8")
    with pytest.raises(GMMXLNetError, match="does not reload bit for bit; not pushed"):
        push.main()
    assert hub.repos == {}


@pytest.mark.parametrize(("name", "stage"), [("determinism.json", "verify"), ("metrics.json", "evaluate")])
def test_missing_reports_are_named(trained, name, stage):
    (trained / "reports" / name).unlink()
    with pytest.raises(GMMXLNetError, match=f"reports/{name}: there is no such file; run the {stage} stage first"):
        push.main()


def test_a_refusal_leaves_no_report(hub, trained, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret0123456789")
    with pytest.raises(GMMXLNetError, match=r"^me/mine: the Hub does not know this token \(401\)") as caught:
        push.main()
    assert "hf_secret" not in str(caught.value)
    assert not (trained / "reports" / "push.json").exists()


def test_every_profile_has_a_card(trained):
    """What is on the Hub is named by its id, what is here by its own name only."""
    params, metrics = load_params(), json.loads((trained / "reports" / "metrics.json").read_text(encoding="utf-8"))
    experiment = Experiment.read(trained / "models" / "gmm")
    cards = {
        name: ModelCard(upload.card(params.model_copy(update={"profile": name}), experiment, metrics)).data
        for name in params.profiles
    }
    assert (cards["squad_v2"].datasets, cards["squad_v2"].base_model) == (
        ["rajpurkar/squad_v2"],
        "xlnet/xlnet-base-cased",
    )
    (trained / "data" / "sample").mkdir(parents=True)
    sample = ModelCard(upload.card(params, experiment, metrics)).data
    assert (sample.datasets, sample.base_model) == (None, None)
    assert {result.dataset_name for result in sample.eval_results} == {"sample (local files)"}


def test_a_card_names_a_generated_dataset_in_words(trained):
    metrics = json.loads((trained / "reports" / "metrics.json").read_text(encoding="utf-8"))
    settings = "num_towns:4,num_updates:0,lag:1,town_with_list:true,segment_tokens:42,num_train:50,num_dev:10"
    params = overridden(Path("params.yaml").read_text("utf-8"), [f"profiles.sample.dataset={{load:{{{settings}}}}}"])
    card = ModelCard(upload.card(params, Experiment.read(trained / "models" / "gmm"), metrics))
    assert card.data.datasets is None
    assert {result.dataset_name for result in card.data.eval_results} == {"load world, 4 towns, lag 1"}
    assert "validation questions of load world, 4 towns, lag 1, in percent" in card.text
