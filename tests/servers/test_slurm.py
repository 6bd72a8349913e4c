"""Experiments as an array job of a real Slurm, on two nodes of this machine; whatever ends a task, it goes on."""

import json
import subprocess
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import pytest
import slurm_cluster
from ruamel.yaml import YAML
from slurm_cluster import Cluster
from waiting import wait_until

from gmmxlnet.errors import ConfigError
from pipeline import slurm_queue
from pipeline.queues import QueueError
from tests.small_repository import make_repository, must, run

MISSING = slurm_cluster.program_missing()
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(MISSING is not None, reason=f"{MISSING} is not installed (make scale-test)"),
]
Experiment = namedtuple("Experiment", ["name", "overrides"], defaults=[()])  # of a plan, what is submitted
# While a file named `slowly` is in the folder it was submitted from, each step takes a quarter of a second.
SLOWLY = """
    from transformers import TrainerCallback
    class Slowly(TrainerCallback):
        def on_step_end(self, *arguments, **more):
            import os, time
            if os.path.exists(os.path.join(os.environ["SLURM_SUBMIT_DIR"], "slowly")):
                time.sleep(0.25)
    if params.memory_type == "mems":
        raise RuntimeError("no room left on the disk")
"""


def slow_down(text):
    text = text.replace("    params = load_params()\n", f"    params = load_params(){SLOWLY}", 1)
    return text.replace("callbacks=[MLflowCallback(run)]", "callbacks=[MLflowCallback(run), Slowly()]")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head") / "main"
    folder.mkdir()
    return make_repository(folder, {"pipeline/train.py": slow_down}, max_steps=240, num_epochs=80, save_steps=4)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def submit(cluster, repository, lines, *options):
    """Submit the lines as tasks; returns the job's number."""
    (repository / "sweep.tsv").write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    told = ["sbatch", "--parsable", f"--array=1-{len(lines)}", *options, "scripts/experiments.sbatch", "sweep.tsv"]
    done = subprocess.run(told, cwd=repository, env=cluster.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def log(repository, job, task=1):
    file = repository / f"slurm-{job}_{task}.out"
    return file.read_text(encoding="utf-8") if file.exists() else ""


def state(cluster, job):
    """What Slurm says of a job: the state, the node, how often it was started again."""
    words = cluster.command("scontrol", "show", "job", job).split()
    told = dict(word.split("=", 1) for word in words if "=" in word)
    return told["JobState"], told.get("NodeList"), int(told["Restarts"])


def checkpoint(repository, name, beyond=0):
    """The step of the newest checkpoint, as soon as there is one beyond a step."""
    clone = repository / ".slurm" / "clones" / name

    def newest():
        steps = [int(one.name.partition("-")[2]) for one in clone.glob(".resume/*/step-*")]
        return max((step for step in steps if step > beyond), default=0)

    return wait_until(newest)


def resumed_at(text):
    """The steps of the checkpoints that a task went on from."""
    return [int(line.rpartition("step-")[2]) for line in text.splitlines() if "training goes on from" in line]


def outputs(folder, revision):
    """The hashes of the outputs that a revision's lock names."""
    lock = YAML(typ="safe").load(must(folder, "git", "show", f"{revision}:dvc.lock"))
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def experiments(folder):
    listed = must(folder, "git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
    return {name.rpartition("/")[2]: commit for name, commit in (line.split() for line in listed.splitlines())}


@pytest.fixture
def stand_in(cluster, tmp_path, monkeypatch):
    """The current folder is a repository whose batch file only waits until there is a file named `go`."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.environment[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_queue, "PAUSE", 0.5)
    monkeypatch.setattr(slurm_queue, "PATIENCE", 120.0)
    (tmp_path / "scripts").mkdir()
    lines = ["#!/bin/bash", "#SBATCH --requeue", "scontrol update JobId=$SLURM_JOB_ID JobName=renamed"]
    lines += ["echo $1 $GMMXLNET_COMMIT", "while [ ! -e go ]; do sleep 0.2; done"]
    (tmp_path / "scripts" / "experiments.sbatch").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "params.yaml").write_text("seed: 13\n", encoding="utf-8")
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        must(tmp_path, "git", *words)
    return tmp_path


def test_the_queue_is_read_while_the_controller_restarts_and_held_tasks_are_named(cluster, stand_in, capfd):
    names = ["one", "two", "three"]
    planned = [Experiment("one", ("seed=1", "other=a b")), Experiment("two"), Experiment("three")]
    told = []
    slurm_queue.check()
    slurm_queue.submit(planned, 1, lambda *state: told.append(state))
    wait_until(lambda: slurm_queue.states() == {"one": "RUNNING", "two": "PENDING", "three": "PENDING"})
    assert slurm_queue.state_and_reason(["two", "four"]) == {"two": "pending", "four": "not run"}
    job = cluster.command("squeue", "--noheader", "--format=%A").split()[0]

    assert capfd.readouterr().out.startswith(f"compare: Slurm's job {job}, one task an experiment")
    slurm_queue.submit(planned, 1, lambda *state: told.append(state))  # what is there is not queued again
    assert capfd.readouterr().out == ""
    cluster.kill("slurmctld")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(slurm_queue.wait, names, 1, lambda *state: told.append(state))
        try:
            said = wait_until(lambda: capfd.readouterr().out)
        finally:
            cluster.start_controller()
        assert "Unable to contact slurm controller" in said
        assert "asking again for 2 minutes" in said
        assert said.count("\n") == 1
        wait_until(lambda: ("one", "running") in told)
        wait_until(lambda: cluster.command("scontrol", "hold", job) is not None and "held" in held(cluster))
        cluster.command("scontrol", "requeue", f"{job}_1")
        with pytest.raises(
            QueueError, match=r"nothing runs any more: one is PENDING .*Held.*scontrol release lets it run"
        ):
            waiting.result()
    (stand_in / "go").touch()
    cluster.command("scontrol", "release", job)
    slurm_queue.wait(names, 1, lambda *state: told.append(state))
    assert told[-3:].count(("three", "ended")) == 1


def held(cluster):
    """Why tasks wait, in small letters."""
    return cluster.command("squeue", "--noheader", "--format=%r").lower()


def test_what_is_not_committed_is_refused(stand_in):
    (stand_in / "params.yaml").write_text("seed: 14\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"params.yaml: is changed; --launcher slurm trains what is committed"):
        slurm_queue.check()


def test_a_task_that_is_ended_in_every_way_leaves_the_same_bytes(cluster, repository, tmp_path):
    """Requeued, cut off with its node, told to end, and out of time."""
    (repository / "slowly").touch()
    line = ["often-ended", "memory_type=token", "seed=14"]
    job = submit(cluster, repository, [line])
    first = checkpoint(repository, "often-ended")

    cluster.command("scontrol", "requeue", f"{job}_1")
    wait_until(lambda: log(repository, job).count("begins on") == 2)
    assert "often-ended was told to end; started again, it goes on from its last checkpoint" in log(repository, job)
    second = checkpoint(repository, "often-ended", first + 8)

    node = state(cluster, f"{job}_1")[1]
    cluster.kill_node(node)
    wait_until(lambda: log(repository, job).count("begins on") == 3)
    assert state(cluster, f"{job}_1")[1] != node
    third = checkpoint(repository, "often-ended", second + 8)
    cluster.start_node(node)

    cluster.command("scancel", f"{job}_1")
    wait_until(lambda: state(cluster, f"{job}_1")[0] == "CANCELLED")
    again = submit(cluster, repository, [line], "--time=1", "--signal=B:USR1@58")
    wait_until(lambda: "reaches its time limit" in log(repository, again))
    (repository / "slowly").unlink()
    cluster.command("scontrol", "update", f"JobId={again}_1", "TimeLimit=30")
    wait_until(lambda: "often-ended is done" in log(repository, again))
    assert state(cluster, f"{again}_1")[0::2] == ("COMPLETED", 1)

    went_on = [*resumed_at(log(repository, job)), *resumed_at(log(repository, again))]
    assert len(went_on) >= 3
    assert went_on[0] >= first
    assert went_on[1] >= second
    assert went_on[2] >= third
    assert not list((repository / ".slurm" / "clones").iterdir())
    alone = tmp_path / "alone"
    must(tmp_path, "git", "clone", "--quiet", str(repository), str(alone))
    told = ["--temp", "--name", "alone", "-S", line[1], "-S", line[2], "train"]
    must(alone, "dvc", "exp", "run", *told, SLURM_SUBMIT_DIR=str(alone))
    straight, ended = (experiments(folder)[name] for folder, name in ((alone, "alone"), (repository, line[0])))
    expected = outputs(alone, straight)
    assert "models/gmm" in expected
    assert {name: found for name, found in outputs(repository, ended).items() if name in expected} == expected


def compare(cluster, repository, *options):
    """Run the command as make does."""
    told = ["-m", "pipeline.compare", "--launcher", "slurm", "--jobs", "2", *options]
    environment = {key: cluster.environment[key] for key in ("SLURM_CONF", "PATH")}
    return run(repository, "python", *told, **environment)


def test_a_comparison_is_the_clusters_work_and_is_reported_without_training(cluster, repository):
    arguments = ("--variants", "none", "mems", "--set", "profiles.sample.max_steps=3")
    status, printed = compare(cluster, repository, *arguments)
    assert status == 1
    assert "mems-s13 (failed: RuntimeError: no room left on the disk)" in printed.splitlines()[-1]
    assert "compare: 1 of 2 have a result" in printed
    assert set(experiments(repository)) >= {"none-s13"}
    shown = json.loads(must(repository, "dvc", "exp", "show", "--json"))
    assert "none-s13" in json.dumps(shown)
    started = time.time()
    status, printed = compare(cluster, repository, "--variants", "none", "--set", "profiles.sample.max_steps=3")
    assert (status, printed.count("compare: 1 of 1 are done, 0 to run")) == (0, 1), printed
    assert not [file for file in repository.glob(".slurm/logs/*.log") if file.stat().st_mtime > started]
    (repository / "params.yaml").write_text((repository / "params.yaml").read_text() + "# changed\n")
    status, printed = compare(cluster, repository, "--variants", "token")
    assert status == 1
    told = "params.yaml: is changed; --launcher slurm trains what is committed, so commit it first"
    assert printed.splitlines()[-1].endswith(told)
    must(repository, "git", "checkout", "params.yaml")
