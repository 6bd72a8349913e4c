"""What an earlier stage left is damaged: the next one says in one line what, where, and which stage makes it again."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest

from gmmxlnet.data.documents import Documents
from gmmxlnet.errors import GMMXLNetError
from gmmxlnet.verification.fingerprint import Fingerprint
from pipeline import analyze, evaluate, push
from pipeline.experiment import Experiment, canonical_parameters
from pipeline.params import load_params

ROOT = Path(__file__).resolve().parents[2]
STEPS = "step,loss,span,learning_rate\n1,3.5,3.0,0.001\n2,3.25,2.75,0.0005\n"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, sample_chunks, make_model):
    """A workspace in which a small model has been evaluated."""
    workspace = tmp_path_factory.mktemp("evaluated")
    shutil.copy(ROOT / "params.yaml", workspace)
    shutil.copytree(sample_chunks, workspace / "data" / "chunks")
    model = make_model("gmm")
    model.save_pretrained(workspace / "models" / "gmm")
    Fingerprint.of(model).write(workspace / "models" / "gmm")
    parameters = canonical_parameters(load_params(ROOT / "params.yaml")) | {"num_memory_experts": 3}
    Experiment(parameters=parameters, data="").write(workspace / "models" / "gmm")
    (workspace / "reports").mkdir()
    (workspace / "reports" / "training.csv").write_text(STEPS, encoding="utf-8")
    (workspace / "reports" / "determinism.json").write_text('{"bit_identical": true}', encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        evaluate.main()
    return workspace


@pytest.fixture
def workspace(evaluated, tmp_path, monkeypatch):
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    return tmp_path


def changed(value, *keys, to):
    value = copy.deepcopy(value)
    inner = value
    for key in keys[:-1]:
        inner = inner[key]
    if to is KeyError:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return value


METRICS = [
    (("exact_match",), "90"),
    (("f1",), KeyError),
    (("total",), -1),
    (("null_score_diff_threshold",), None),
    (("null_score_diff_threshold_choice",), {}),
    (("memory_ablation",), {}),
    (("memory_ablation", "normal"), None),
    (("memory_ablation", "zeroed", "by_question_type"), {}),
    (("memory_ablation", "another"), None),
    (("by_question_type", "cross", "exact_match_interval"), [1.0]),
    (("by_question_type", "cross", "exact_match_interval"), [9.0, 1.0]),
    (("by_segments",), {"many": {}}),
    (("routing_ablation", "uniform"), KeyError),
    (("always_no_answer",), 28.5),
]


def refused(main, file, stage):
    with pytest.raises(GMMXLNetError, match=file) as caught:
        main()
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 400
    assert line.endswith((f"dvc repro --force {stage}", f"dvc repro {stage}"))
    return line


@pytest.mark.parametrize(("keys", "value"), METRICS, ids=lambda x: ".".join(x) if isinstance(x, tuple) else None)
def test_metrics(workspace, keys, value):
    path = workspace / "reports" / "metrics.json"
    path.write_text(json.dumps(changed(json.loads(path.read_text()), *keys, to=value)), encoding="utf-8")
    line = refused(analyze.main, "^reports/metrics.json: ", "evaluate")
    assert keys[0] in line
    assert not (workspace / "reports" / "index.html").exists()


@pytest.mark.parametrize("text", ["", "[", "[]", "\ud800", '{"exact_match": NaN}', "[" * 100_000, '{"a": 1, "a": 1}'])
@pytest.mark.parametrize("name", ["metrics.json", "nbest_predictions.json"])
def test_no_json(workspace, name, text):
    (workspace / "reports" / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(analyze.main, f"^reports/{name}: ", "evaluate")


def test_n_best_answers_that_are_not_in_the_documents(workspace):
    path, documents = workspace / "reports" / "nbest_predictions.json", Documents.open("data/chunks", "dev")
    whole = json.loads(path.read_text())
    name = documents.question_id(0)
    span = next(place for place, entry in enumerate(whole[name]) if entry["char_start"] is not None)
    for keys, value in [
        ((name,), KeyError),
        ((name,), []),
        ((name, span, "segment"), 99),
        ((name, span, "segment"), 1.5),
        ((name, span, "char_end"), 10**6),
        ((name, span, "char_start"), None),
        ((name, span, "text"), "elsewhere"),
        ((name, span, "start_logit"), "x"),
        ((name, span, "probability"), 2),
        (("another question",), whole[name]),
    ]:
        path.write_text(json.dumps(changed(whole, *keys, to=value)), encoding="utf-8")
        refused(analyze.main, r"^reports/nbest_predictions\.json: is not what evaluate wrote: ", "evaluate")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step,loss,learning_rate\n",
        "step,loss\n1,2\n",
        "step,loss,learning_rate\n1,2\n",
        "step,loss,learning_rate\n1,two,3\n",
        "step,loss,learning_rate\n1,nan,3\n",
        "step,loss,learning_rate\n1,1e999,3\n",
        "step,loss,learning_rate\n2,1,3\n",
        "step,loss,loss,learning_rate\n1,1,1,3\n",
        "step,loss,learning_rate\n1,\x00,3\n",
        "step,loss,learning_rate\n1,\x1b[2J\u202e,3\n",
        'step,loss,learning_rate\n1,"2,3\n',
    ],
)
def test_training_csv(workspace, text):
    (workspace / "reports" / "training.csv").write_text(text, encoding="utf-8")
    refused(analyze.main, r"^reports/training\.csv: is not what train wrote: ", "train")


def test_a_pipe_in_place_of_a_report(workspace):
    for name, stage in (("training.csv", "train"), ("metrics.json", "evaluate")):
        (workspace / "reports" / name).unlink()
        os.mkfifo(workspace / "reports" / name)
        refused(analyze.main, f"^reports/{name}: .*no regular file", stage)
        (workspace / "reports" / name).unlink()
        refused(analyze.main, f"^reports/{name}: there is no such file", stage)
        shutil.copy(ROOT / "reports" / "metrics.json", workspace / "reports" / "metrics.json")
        (workspace / "reports" / "training.csv").write_text(STEPS)


@pytest.mark.parametrize("value", ["true", '{"bit_identical": "no"}', '{"bit_identical": 1}', "{}"])
def test_a_determinism_report_that_says_nothing_pushes_nothing(workspace, value):
    text = (workspace / "params.yaml").read_text(encoding="utf-8")
    (workspace / "params.yaml").write_text(text.replace("\nhub_model_id:", "\nhub_model_id: me/x"), encoding="utf-8")
    (workspace / "reports" / "determinism.json").write_text(value, encoding="utf-8")
    refused(push.main, r"^reports/determinism\.json: is not what verify wrote: ", "verify")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("parameters",), []),
        (("parameters", "memory_type"), "other"),
        (("parameters", "memory_type"), ["gmm"]),
        (("parameters", "num_memory_experts"), 10**30),
        (("parameters", "seed"), {"a": 1}),
        (("parameters", "profile"), KeyError),
        (("parameters", "x"), {"a": {"b": 1}}),
        (("data",), 7),
    ],
)
def test_experiment_json(workspace, keys, value):
    path = workspace / "models" / "gmm" / "experiment.json"
    path.write_text(json.dumps(changed(json.loads(path.read_text()), *keys, to=value)), encoding="utf-8")
    refused(analyze.main, r"^models/gmm/experiment\.json: is not what train wrote: ", "train")
