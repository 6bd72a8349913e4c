"""The variants of a comparison: names that DVC and people can use, and parameters checked before anything runs."""

from pathlib import Path

import pytest

from gmmxlnet.errors import ConfigError
from pipeline.params import load_params
from pipeline.variants import VARIANTS, in_use, overridden, plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_all_variants_with_the_seed_of_the_parameters():
    planned = plan("sample", list(VARIANTS), [], [])
    names = [one.name for one in planned]
    assert names[:5] == ["none-s13", "mems-s13", "words-s13", "token-s13", "differentiable-s13"]
    assert len(set(names)) == 11
    last = planned[-1].params
    assert (last.memory_type, last.num_memory_experts, last.routing_mode) == ("gmm", 8, "read-based")


def test_seeds_settings_and_a_name_of_its_own():
    settings = ["profile=squad_v2_long", "profiles.squad_v2_long.progressive_segments=[4]"]
    planned = plan("long", ["token", "gmm-k5-read", "token"], [13, 14], settings)
    names = ["long-token-s13", "long-gmm-k5-read-s13", "long-token-s14", "long-gmm-k5-read-s14"]
    assert [one.name for one in planned] == names
    assert [one.params.seed for one in planned] == [13, 13, 14, 14]
    assert all(one.params.active.progressive_segments == [4] for one in planned)


@pytest.mark.parametrize(
    ("name", "variants", "settings", "message"),
    [
        ("sample", ["tokn"], [], r"VARIANTS: .*not tokn"),
        ("sample", ["gmm-k9-read"], [], r"num_memory_experts must be an integer in \[2, 8\], not 9"),
        ("a/b", ["none"], [], "name must be small letters"),
        ("sample", ["none"], ["seed=3"], "seed: set by each variant"),
        ("sample", ["none"], ["profiles.sample.max_step=3"], "max_step"),
        (
            "sample",
            ["none"],
            ["profiles.sample.num_epochs=0"],
            r"params.yaml with .*num_epochs must be an integer",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(name, variants, settings, message):
    with pytest.raises(ConfigError, match=message):
        plan(name, variants, [], settings)


def test_only_the_profile_in_use_decides_whether_an_experiment_is_the_same():
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    here = in_use(load_params())
    assert in_use(overridden(text, ["profiles.squad_v2.learning_rate=1e-4"])) == here
    assert in_use(overridden(text, ["profiles.sample.learning_rate=1e-4"])) != here
