"""dvc.yaml agrees with params.yaml, with the code and with what an experiment's identity is made of."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from pipeline.experiment import SHARING, canonical_parameters
from pipeline.params import load_params

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def outputs(stage):
    entries = stage.get("outs", []) + stage.get("metrics", [])
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def test_the_stages_leave_what_others_rely_on():
    assert {name: outputs(stage) for name, stage in STAGES.items()} == {
        "check": ["reports/check.json"],
        "chunk": ["data/chunks", "reports/data.json"],
        "train": ["models/gmm", "reports/training.csv"],
        "verify": ["reports/determinism.json"],
        "evaluate": [
            "reports/predictions.json",
            "reports/null_odds.json",
            "reports/nbest_predictions.json",
            "reports/metrics.json",
        ],
        "analyze": [
            "reports/plots",
            "reports/index.html",
            "reports/ablation.csv",
            "reports/routing.json",
            "reports/summary.json",
        ],
        "push": ["reports/push.json"],
    }


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("profile", PARAMS["profiles"])
def test_every_parameter_of_a_stage_exists_in_every_profile(stage, profile):
    for key in STAGES[stage]["params"] if stage != "check" else ():  # which depends on all of the file
        values = PARAMS
        for part in key.replace("${profile}", profile).split("."):
            assert part in values, key
            values = values[part]


@pytest.mark.parametrize("stage", STAGES)
def test_every_dependency_is_committed_or_made_by_a_stage(stage):
    made = {path for other in STAGES.values() for path in outputs(other)}
    for path in STAGES[stage]["deps"]:
        assert path in made or (ROOT / path).exists(), path


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_own_module(stage):
    assert STAGES[stage]["cmd"] == f"python -m pipeline.{stage}"
    assert f"pipeline/{stage}.py" in STAGES[stage]["deps"]


def test_what_training_depends_on_is_the_experiments_identity():
    """Else a parameter could change the written identity without training anew, or the other way round."""
    tracked = {key.rpartition(".")[2] for stage in ("chunk", "train") for key in STAGES[stage]["params"]}
    params = load_params(ROOT / "params.yaml").model_copy(update={"memory_type": "mems"})  # which has one more
    identity = {key.partition(".")[0] for key in canonical_parameters(params)}
    assert tracked - SHARING == identity


def test_chunks_do_not_depend_on_the_memory_but_for_its_tokens():
    chunk = set(STAGES["chunk"]["params"])
    assert not chunk & {"num_memory_experts", "memory_type", "routing_mode", "routing_temperature"}
    assert {"memory_num_tokens", "seed"} <= chunk


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=14", "seed: 14                        # of everything"),
        ("profiles.sample.max_steps=15", "    max_steps: 15               # stop after"),
        ("memory_type=token", "memory_type: token"),
        ("profiles.articles.progressive_segments=[1,4,9]", "    - 9"),
        ("profiles.articles.dataset.dev=x.json", "      dev: x.json"),
    ],
)
def test_dvc_changes_the_line_that_it_is_told_to(tmp_path, override, line):
    """The file is a fixed point of DVC's own writing, which is what `dvc exp run -S` does to it."""
    before = (ROOT / "params.yaml").read_text(encoding="utf-8")
    file = tmp_path / "params.yaml"
    file.write_text(before, encoding="utf-8")
    apply_overrides(file, [override])
    after = file.read_text(encoding="utf-8")
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(changed) == 1
    assert changed[0][1].startswith(line)


def test_dvc_puts_a_generator_in_the_place_of_a_folder_and_changes_it(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_bytes((ROOT / "params.yaml").read_bytes())
    settings = "num_towns:4,num_updates:0,lag:0,town_with_list:true,segment_tokens:42,num_train:50,num_dev:10"
    apply_overrides(file, [f"profiles.sample.dataset={{load:{{{settings}}}}}"])
    before = load_params(file).dataset["load"]
    assert (before["num_towns"], before["town_with_list"], before["num_train"]) == (4, True, 50)
    apply_overrides(file, ["profiles.sample.dataset.load.num_towns=2"])
    assert load_params(file).dataset == {"load": before | {"num_towns": 2}}
    apply_overrides(file, ["profiles.sample.dataset=data/sample"])
    assert load_params(file).dataset == "data/sample"


def test_only_the_profile_in_use_counts(tmp_path):
    """DVC resolves `${profile}` when it reads the file (needs a repository: a new one)."""
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert [line.split()[0] for line in shown.stdout.splitlines()] == list(STAGES)


def test_plots_and_metrics_are_compared_with_a_commit_whose_cache_is_elsewhere(tmp_path):
    """As after `make repro` in a clone, on another kind of processor: HEAD's outputs were never in this cache."""

    def run(*command):
        who = {f"GIT_{role}_{key}": "test" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **who}, check=True, capture_output=True, text=True
        )

    def write(loss):
        (tmp_path / "reports" / "training.csv").write_text(f"step,loss,span,learning_rate\n1,{loss},2.5,0.1\n")
        (tmp_path / "reports" / "ablation.csv").write_text(f"exact_match,memory_questions\n{loss},all: zeroed\n")
        (tmp_path / "reports" / "summary.json").write_text(json.dumps({"exact_match": loss}))

    (tmp_path / "reports").mkdir()
    for name in ("dvc.yaml", "params.yaml", ".gitignore", "reports/.gitignore"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    run("git", "init", "--quiet")
    run(sys.executable, "-m", "dvc", "init", "--quiet")
    write(3.25)
    run("git", "add", ".")
    run("git", "commit", "--quiet", "--message", "HEAD")
    write(1.75)
    drawn = json.loads(run(sys.executable, "-m", "dvc", "plots", "diff", "--json").stdout)
    assert not drawn.get("errors")
    assert set(drawn["data"]) == {"loss", "learning rate", "memory ablation"}
    for name, plots in drawn["data"].items():
        assert {plot for one in plots for plot in one["revisions"]} == {"workspace", "HEAD"}, name
    (compared,) = json.loads(run(sys.executable, "-m", "dvc", "metrics", "diff", "--json").stdout).values()
    assert compared["exact_match"] == {"old": 3.25, "new": 1.75, "diff": -1.5}
    run(sys.executable, "-m", "dvc", "plots", "diff")
    assert "dvc_plots" not in run("git", "status", "--short").stdout
