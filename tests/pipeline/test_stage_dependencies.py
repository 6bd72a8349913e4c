"""dvc.yaml names what each stage depends on: computed from the stage's imports, and from what it reads as it runs."""

import shutil

import pytest
import torch
from ruamel.yaml import YAML

from pipeline import analyze, chunk, evaluate, places, push, train, upload, verify
from pipeline.params import Section, load_params
from tests.pipeline.closure import NOT_FOLLOWED, ROOT, closure, imported

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
MODULES = {"chunk": chunk, "train": train, "verify": verify, "evaluate": evaluate, "analyze": analyze, "push": push}
# Code that decides no byte of any output, and why.
WITHOUT_EFFECT = {
    "gmmxlnet/__init__.py": "a package's name and version",
    "gmmxlnet/data/__init__.py": "forwards names",
    "gmmxlnet/errors.py": "what errors say",
    "gmmxlnet/folder_files.py": "refuses links",
    "gmmxlnet/messages.py": "what is printed",
    "gmmxlnet/reports.py": "refuses damaged files; hands on sound ones as they are",
    "gmmxlnet/options.py": "refuses values; those it takes are parameters",
    "gmmxlnet/sharing/__init__.py": "empty",
    "gmmxlnet/utils/__init__.py": "forwards names",
    "gmmxlnet/utils/files.py": "how files are replaced",
    "gmmxlnet/garbage.py": "time",
    "gmmxlnet/hub_files.py": "refuses files",
    "gmmxlnet/interrupts.py": "how signals end a program",
    "gmmxlnet/native_settings.py": "time and memory; the bits are the same",
    "gmmxlnet/utils/logs.py": "what is printed",
    "gmmxlnet/utils/progress.py": "what is printed",
    "gmmxlnet/verification/__init__.py": "forwards names",
    "pipeline/__init__.py": "settings of the terminal",
    "pipeline/base_model.py": "where a base is; which one is the model's own",
    "pipeline/cost.py": "for MLflow",
    "pipeline/crash.py": "what is printed",
    "pipeline/folder_lock.py": "when a stage starts",
    "pipeline/git.py": "for MLflow, and for a file that is no output",
    "pipeline/launch.py": "starts processes",
    "pipeline/mlflow_run.py": "for MLflow",
    "pipeline/params.py": "hands on parameters, which are named one by one",
    "pipeline/params_errors.py": "what errors say",
    "pipeline/places.py": "names of dependencies and outputs, which dvc.yaml names as well",
    "pipeline/provenance.py": "writes files that are no outputs",
    "pipeline/resume_key.py": "where checkpoints lie",
    "pipeline/run_description.py": "for MLflow",
    "pipeline/run_names.py": "for MLflow",
    "pipeline/stage.py": "how a stage ends",
    "pipeline/store_check.py": "for MLflow",
    "pipeline/tracking.py": "for MLflow",
    "pipeline/unsent.py": "for MLflow",
    "pipeline/yaml_file.py": "reads parameters, which are named one by one",
}
OF_FINGERPRINT = "comes with the fingerprint's package; only fingerprint.json's name or the fingerprint is used"
WITHOUT_EFFECT_IN = {
    **{
        (stage, f"gmmxlnet/verification/{name}.py"): OF_FINGERPRINT
        for stage in MODULES
        if stage not in ("chunk", "verify")
        for name in ("checks", "full", "static", "levels", "fingerprint")
        if (stage, name) != ("train", "fingerprint")
    },
    ("evaluate", "pipeline/experiment.py"): "finds the MLflow run",
    ("check", "gmmxlnet/utils/files.py"): "how files are replaced",
    ("verify", "gmmxlnet/windows.py"): "comes with the options",
    ("push", "gmmxlnet/windows.py"): "comes with the options",
    ("verify", "gmmxlnet/utils/processes.py"): "one process verifies",
    ("chunk", "gmmxlnet/memory_kinds.py"): "comes with the options",
    **{(stage, "pipeline/portable_bits.py"): "computes nothing of floats" for stage in ("check", "chunk", "push")},
}
DECISIVE_FOR = {
    ("train", "gmmxlnet/options.py"),
    ("check", "gmmxlnet/options.py"),
    ("check", "pipeline/params.py"),
    ("analyze", "pipeline/run_description.py"),
}


def is_covered(file, deps):
    return any(file == dep or file.startswith(f"{dep}/") for dep in deps)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_imports(stage):
    left = {file for file in closure(f"pipeline/{stage}.py") if not is_covered(file, STAGES[stage]["deps"])}
    left -= {file for file in WITHOUT_EFFECT if (stage, file) not in DECISIVE_FOR}
    left -= {file for name, file in WITHOUT_EFFECT_IN if name == stage}
    if stage == "push":  # which reads no weights
        left -= {file for file in left if file.startswith(("gmmxlnet/models/", "gmmxlnet/utils/"))}
        left -= {"gmmxlnet/memory_kinds.py"}
    assert sorted(left) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_import(stage):
    needed = closure(f"pipeline/{stage}.py")
    code = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("gmmxlnet", "pipeline"))]
    assert [dep for dep in code if not any(is_covered(file, [dep]) for file in needed)] == []


def files_of(stage, key):
    """The entries of a stage below these keys, without their options."""
    entries = [entry for name in key for entry in STAGES[stage].get(name, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


@pytest.mark.parametrize("stage", MODULES)
def test_a_stage_depends_on_the_files_of_other_stages_that_its_module_names(stage):
    own = files_of(stage, ("outs", "metrics"))
    made = {file for other in STAGES for file in files_of(other, ("outs", "metrics"))} - set(own)
    modules = [MODULES[stage], *([upload] if stage == "push" else [])]  # upload.py is imported only to upload
    names = {name: value for module in modules for name, value in vars(module).items()}
    named = {str(value) for name, value in names.items() if value is getattr(places, name, None)}
    assert named & made == set(STAGES[stage]["deps"]) & made - {"reports/check.json"}
    assert set(own) - named <= {"reports/data.json", "models/gmm"}  # what else a stage leaves, it names too


def test_exceptions_are_still_needed():
    everything = set().union(*(closure(f"pipeline/{stage}.py") for stage in STAGES))
    assert set(WITHOUT_EFFECT) - everything == set()
    assert {pair for pair in WITHOUT_EFFECT_IN if pair[1] not in closure(f"pipeline/{pair[0]}.py")} == set()
    assert all((ROOT / file).is_file() and module in (ROOT / file).read_text("utf-8") for file, module in NOT_FOLLOWED)


def test_an_import_in_a_function_counts(tmp_path, monkeypatch):
    (tmp_path / "gmmxlnet").mkdir()
    for name in ("a", "b", "c", "d"):
        (tmp_path / "gmmxlnet" / f"{name}.py").write_text("", encoding="utf-8")
    (tmp_path / "gmmxlnet" / "a.py").write_text(
        "from typing import TYPE_CHECKING\nimport gmmxlnet.b\n"
        "def later():\n    from gmmxlnet import c\nif TYPE_CHECKING:\n    import gmmxlnet.d\n",
        encoding="utf-8",
    )
    monkeypatch.setattr("tests.pipeline.closure.ROOT", tmp_path)
    assert imported("gmmxlnet/a.py") == {"gmmxlnet/b.py", "gmmxlnet/c.py"}


# Parameters

READ_BUT_NOT_NAMED = {  # they change no byte
    **{
        ("train", name): "how batches are made and checkpoints kept"
        for name in ("num_workers", "save_steps", "save_total_limit")
    },
    ("chunk", "num_workers"): "the same bytes whatever their number",
    ("evaluate", "num_processes"): "the same bytes whatever their number",
    ("verify", "profile"): "chooses the others",
    ("verify", "adapter"): "the model's own configuration says so too",
    ("verify", "base_model"): "the model's own configuration says so too",
    ("evaluate", "adapter"): "the model's own configuration says so too",
    ("evaluate", "base_model"): "the model's own configuration says so too",
    ("analyze", "adapter"): "the model's own configuration says so too",
    ("analyze", "base_model"): "the model's own configuration says so too",
}
NAMED_BUT_NOT_READ = {  # in this run
    ("train", "lora_rank"): "with adapter lora",
    ("train", "lora_alpha"): "with adapter lora",
    ("train", "lora_dropout"): "with adapter lora",
    ("train", "adapter"): "with a pretrained base",
    ("train", "base_model_revision"): "with a pretrained base",
    ("train", "dropout"): "with a pretrained base",
    ("chunk", "hub_push_chunks"): "with hub_dataset_id",
    ("push", "dataset"): "with hub_model_id",
    ("push", "base_model"): "with hub_model_id",
    ("push", "progressive_segments"): "with hub_model_id",
    ("push", "profile"): "chooses the others",
    ("analyze", "precision"): "of evaluate's figures on the page",
    **{(stage, "portable_bits"): "run_stage" for stage in ("train", "verify", "evaluate", "analyze")},
}
SMALL = {"n_layer": 1, "d_model": 16, "n_head": 2, "d_inner": 16}
FEW = {"max_train_documents": 60, "max_eval_documents": 6, "max_steps": 2, "calibration_fraction": 0.2}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """For each stage, the names of the parameters that it read as it ran, the run's checks of them aside."""
    folder, deterministic = tmp_path_factory.mktemp("workspace"), torch.are_deterministic_algorithms_enabled()
    shutil.copytree(ROOT / "data" / "sample", folder / "data" / "sample")
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8")) | {"device": "cpu"}
    params["profiles"]["sample"] |= FEW
    params["profiles"]["sample"]["scratch_size"] |= SMALL
    yaml.dump(params, folder / "params.yaml")
    names = {}
    original = Section.__getattribute__
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in {
            "PYTHONPATH": str(ROOT),
            "DVC_ROOT": str(folder),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        }.items():
            patch.setenv(name, value)
        for stage, module in MODULES.items():
            names[stage] = set()

            def record(self, name, seen=names[stage]):
                if name in type(self).model_fields:
                    seen.add(name)
                return original(self, name)

            def load(patch=patch, record=record):
                loaded = load_params()
                patch.setattr(Section, "__getattribute__", record)
                return loaded

            patch.setattr(module, "load_params", load)
            try:
                module.main()
            finally:
                patch.setattr(Section, "__getattribute__", original)
    torch.use_deterministic_algorithms(deterministic)
    return names


def named(stage):
    """Keys by their last part; of a key below `scratch_size`, that."""
    return {key.rpartition(".")[2] for key in STAGES[stage]["params"]}


@pytest.mark.slow
@pytest.mark.parametrize("stage", MODULES)
def test_a_stage_depends_on_the_parameters_that_it_reads(stage, read):
    inner = {"profiles", *SMALL, "dropout", "initializer_range"}  # below keys that are named
    left = read[stage] - named(stage) - inner
    assert sorted(left - {name for of, name in READ_BUT_NOT_NAMED if of == stage}) == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", MODULES)
def test_a_stage_depends_on_no_parameter_that_it_does_not_read(stage, read):
    left = named(stage) - read[stage]
    assert sorted(left - {name for of, name in NAMED_BUT_NOT_READ if of == stage}) == []


def test_check_depends_on_all_parameters():
    assert STAGES["check"]["params"] == [{"params.yaml": None}]
