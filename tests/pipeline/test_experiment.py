"""An experiment's identity: what changes its key, what does not, and that it survives its file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gmmxlnet.errors import CheckpointError
from pipeline.experiment import Experiment, folder_hash
from pipeline.params import load_params
from pipeline.variants import overridden

ROOT = Path(__file__).resolve().parents[2]
WORLD = {
    **{"num_towns": 4, "num_updates": 1, "lag": 2, "town_with_list": True, "segment_tokens": 42},
    **{"num_train": 50, "num_dev": 10},
}


@pytest.fixture
def chunks(tmp_path):
    folder = tmp_path / "chunks"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "tokens.npy").write_bytes(b"tokens")
    (folder / "settings.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture
def params():
    return load_params(ROOT / "params.yaml")


def changed(params, **values):
    profile = {key: values.pop(key) for key in list(values) if key in type(params.active).model_fields}
    active = params.active.model_copy(update=profile)
    return params.model_copy(update=values | {"profiles": params.profiles | {params.profile: active}})


def test_the_key_survives_the_file(params, chunks, tmp_path):
    experiment = Experiment.of(params, chunks)
    experiment.write(tmp_path)
    assert Experiment.read(tmp_path) == experiment
    laid_out_anew = json.dumps(json.loads((tmp_path / "experiment.json").read_text(encoding="utf-8")))
    (tmp_path / "experiment.json").write_text(laid_out_anew, encoding="utf-8")
    assert Experiment.read(tmp_path).key == experiment.key


def test_parameters_are_flat_and_json(params, chunks):
    parameters = Experiment.of(params, chunks).parameters
    assert parameters["num_memory_experts"] == 4
    assert parameters["learning_rate"] == params.active.learning_rate
    assert parameters["scratch_size.n_head"] == 8
    assert not any(isinstance(value, dict) for value in parameters.values())
    assert json.loads(json.dumps(parameters)) == parameters


def test_the_caches_length_makes_another_experiment_of_what_has_one_alone(params, chunks):
    def key(memory_type, mem_len):
        return Experiment.of(changed(params, memory_type=memory_type, mem_len=mem_len), chunks).key

    assert key("mems", 200) != key("mems", None)
    assert key("words", 200) != key("words", None)
    assert key("gmm", 200) == key("gmm", None)


@pytest.mark.parametrize("change", [{"num_memory_experts": 8}, {"seed": 14}, {"learning_rate": 2e-3}])
def test_what_trains_otherwise_is_another_experiment(params, chunks, change):
    assert Experiment.of(changed(params, **change), chunks).key != Experiment.of(params, chunks).key


@pytest.mark.parametrize("change", [{"hub_model_id": "a/b"}, {"n_best_size": 5}, {"num_workers": 3}])
def test_what_does_not_touch_training_is_the_same_experiment(params, chunks, change):
    assert Experiment.of(changed(params, **change), chunks).key == Experiment.of(params, chunks).key


def test_other_data_is_another_experiment(params, chunks):
    before = Experiment.of(params, chunks).key
    (chunks / "train" / "tokens.npy").write_bytes(b"token5")
    assert Experiment.of(params, chunks).key != before


def test_a_folder_hash_knows_names_and_contents_only(chunks, tmp_path):
    copy = tmp_path / "copy"
    (copy / "train").mkdir(parents=True)
    (copy / "settings.json").write_text("{}", encoding="utf-8")
    (copy / "train" / "tokens.npy").write_bytes(b"tokens")
    assert folder_hash(copy) == folder_hash(chunks)
    (copy / "settings.json").rename(copy / "other.json")
    assert folder_hash(copy) != folder_hash(chunks)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "gmm-k4-write"),
        ({"num_memory_experts": 8, "routing_mode": "read-based"}, "gmm-k8-read"),
        ({"memory_type": "token"}, "token"),
        ({"memory_type": "none"}, "none"),
    ],
)
def test_names_are_for_people(params, chunks, values, name):
    assert Experiment.of(changed(params, **values), chunks).name == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read .*; get the checkpoint again"),
        ("\u20ac", "cannot be read .*; get the checkpoint again"),
        ("[]", "must be an object with keys and values, not a list"),
        ("{}", "is not what train wrote: it must hold parameters by name.*; make it again: dvc repro --force train"),
        ('{"parameters": 3, "data": ""}', "is not what train wrote: it must hold parameters by name"),
        ('{"parameters": {"seed": 13}, "data": ""}', "is not what train wrote: parameters lack profile"),
        (
            '{"parameters": {"profile": "sample", "seed": 13, "memory_type": "gmm", "num_memory_experts": 4, '
            '"memory_num_tokens": 4, "routing_mode": "write-based"}, "data": ""}',
            "is not what train wrote: parameters lack memory_heads",  # which the page describes
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, words):
    (tmp_path / "experiment.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"experiment\.json: {words}"):
        Experiment.read(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="run the train stage first"):
        Experiment.read(tmp_path)


@pytest.mark.parametrize("dataset", ["owner/name", {"train": "a.json", "dev": "b.json"}, {"load": WORLD}])
def test_the_dataset_is_the_one_in_the_parameters(chunks, dataset):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    value = json.dumps(dataset).replace('"', "")
    assert Experiment.of(overridden(text, [f"profiles.sample.dataset={value}"]), chunks).dataset == dataset


def test_half_of_a_generators_settings_is_damage(params, chunks, tmp_path):
    experiment = Experiment.of(params, chunks)
    parameters = experiment.parameters | {"dataset.load.num_towns": 4, "dataset.load.lag": 0}
    replace(experiment, parameters=parameters).write(tmp_path)
    with pytest.raises(CheckpointError, match=r"is not what train wrote: parameters lack dataset\.load\.num_updates"):
        Experiment.read(tmp_path)
