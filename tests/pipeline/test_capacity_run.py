"""`make capacity` in miniature: two variants on documents of one town, run again, and what is refused."""

import shlex
import shutil
from pathlib import Path

import pytest

from gmmxlnet.data import load
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.sources import read_split
from gmmxlnet.data.store import MANIFEST
from gmmxlnet.errors import ConfigError, GMMXLNetError
from pipeline.capacity import BY_NAME, main, parse, plan_all
from pipeline.long_documents import Job
from pipeline.variants import overridden

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("profiles.sample.scratch_size.n_layer=1", "profiles.sample.scratch_size.d_model=16"),
    *("profiles.sample.scratch_size.n_head=2", "memory_heads=2", "profiles.sample.num_workers=0"),
]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*more):
    return ["--loads", "1", "--seeds", "13", "--lag", "1", "--steps", "2", "--num-dev", "3", *more, "--set", *SMALL]


@pytest.mark.slow
def test_one_command_makes_documents_trains_scores_and_tells(workplace, capsys):
    chosen = ("--variants", "token", "gmm-top1")
    main(command(*chosen))
    names = {file.stem for file in Path("reports/capacity").glob("*.safetensors")}
    assert names == {"capacity-load1-token-s13", "capacity-load1-gmm-top1-s13"}
    page = Path("reports/capacity.md").read_text(encoding="utf-8")
    assert "## One town" in page
    assert "Load 1: solved by none; best" in page
    assert "`gmm-top1` with even routing instead of its own" in page
    assert len(Path("reports/capacity.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert Path("reports/capacity.png").stat().st_size > 1000

    Path("reports/capacity/capacity-load1-token-s13.safetensors").unlink()
    with pytest.raises(GMMXLNetError, match=r"no result of capacity-load1-token-s13; the same command again runs only"):
        main(command(*chosen, "--report-only"))
    capsys.readouterr()
    main(command(*chosen))
    assert "capacity: capacity-load1-gmm-top1-s13 is done\n" in capsys.readouterr().out


def test_every_variant_is_a_valid_experiment_of_its_own(workplace):
    planned = plan_all(parse(command("--loads", "2", "3", "--seeds", "13", "14")))
    assert len({one.name for one in planned}) == len(planned) == 2 * 2 * len(BY_NAME)
    by_variant = {one.variant: one.params for one in planned}
    assert by_variant["token-slow"].memory_gate_bias == -1.5
    assert by_variant["gmm-uniform"].router == "uniform"
    assert by_variant["gmm-top1"].routing_top_k == 1
    assert by_variant["gmm-read"].routing_mode == "read-based"
    wide, narrow = by_variant["token-wide"], by_variant["token"]
    rooms = [one.active.max_seq_length - 2 * one.memory_num_tokens for one in (wide, narrow)]
    assert rooms[0] == rooms[1]  # as much room for the text
    assert wide.memory_num_tokens == 4 * by_variant["gmm-write"].memory_num_tokens
    assert len({one.model_dump_json() for one in by_variant.values()}) == len(BY_NAME)


def test_no_question_is_read_twice(workplace):
    one = plan_all(parse(command("--steps", "20", "--variants", "token")))[0]
    articles = read_split(one.params.dataset, "train")
    questions = sum(len(passage.questions) for article in articles for passage in article.paragraphs)
    assert 20 * 32 <= questions * 0.9 < 25 * 32


def test_a_cell_is_the_dataset_that_its_options_name(workplace):
    more = ("--loads", "2", "3", "--updates", "3", "--town-apart", "--variants", "none")
    datasets = [one.params.dataset["load"] for one in plan_all(parse([*command(), *more]))]
    assert [(dataset["num_towns"], dataset["num_updates"]) for dataset in datasets] == [(2, 2), (3, 3)]
    assert [dataset["num_train"] for dataset in datasets] == [20 + 640 // (9 * 6), 20 + 640 // (9 * 7)]
    for dataset in datasets:
        assert (dataset["lag"], dataset["town_with_list"], dataset["num_dev"]) == (1, False, 3)
    assert not Path(".long-documents").exists()  # nothing is made yet


def test_the_token_arrays_are_made_once_for_each_world_and_its_code(workplace, monkeypatch):
    jobs = [Job(one) for one in plan_all(parse(command("--variants", "none", "token")))]
    first = jobs[0].chunks
    before = (first / MANIFEST).stat().st_mtime_ns
    assert Documents.open(first, "dev").question_type(0) == "cross_load1_lag1"
    assert jobs[1].chunks == first
    assert (first / MANIFEST).stat().st_mtime_ns == before
    changed = workplace / "load.py"
    changed.write_text("# other code", encoding="utf-8")
    monkeypatch.setattr(load, "CODE", (changed, *load.CODE[1:]))
    assert Job(jobs[0].planned).chunks != first
    assert load.CODE[1].name == "sample.py"


def test_the_command_of_a_cell_makes_its_parameters(workplace, capsys):
    main(command("--variants", "token-wide", "gmm-frozen", "--commands"))
    lines = capsys.readouterr().out.splitlines()
    planned = plan_all(parse(command("--variants", "token-wide", "gmm-frozen")))
    assert len(lines) == len(planned) == 2
    for line, one in zip(lines, planned, strict=True):
        start, *settings = shlex.split(line.replace("dvc exp run", "dvc-exp-run"))
        assert start == "dvc-exp-run"
        assert set(settings[::2]) == {"-S"}
        assert overridden((workplace / "params.yaml").read_text("utf-8"), settings[1::2]) == one.params


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--loads", "17"), "num_towns must be an integer in"),
        (("--steps", "0"), "profiles.sample.max_steps must be an integer in"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(workplace, more, said):
    with pytest.raises(ConfigError, match=said):
        plan_all(parse([*command(), *more]))
