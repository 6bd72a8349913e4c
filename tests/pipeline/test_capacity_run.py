"""`make capacity` in miniature: two variants on documents of one town, run again, and what is refused."""

import shutil
from pathlib import Path

import pytest

from gmmxlnet.errors import ConfigError, GMMXLNetError
from pipeline.capacity import BY_NAME, main, parse, plan_all

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
    text = (Path(one.params.active.dataset) / "train.json").read_text(encoding="utf-8")
    assert text.count('"question":') * 0.9 >= 20 * 32


def test_documents_are_made_once(workplace):
    plan_all(parse(command("--variants", "token")))
    file = next(Path(".long-documents/load").glob("*/train.json"))
    before = file.stat().st_mtime_ns
    plan_all(parse(command("--variants", "none")))
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("more", "said"),
    [(("--loads", "17"), "num_towns must be an integer in"), (("--steps", "0"), "STEPS and the number of documents")],
)
def test_what_cannot_be_is_refused_in_a_line(workplace, more, said):
    with pytest.raises(ConfigError, match=said):
        plan_all(parse([*command(), *more]))
