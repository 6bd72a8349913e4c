"""The page on long documents says what the numbers say: differences in pairs, where they are, and null results."""

import re

import numpy as np
import pytest

from gmmxlnet.comparison.long_documents import render_long_documents
from gmmxlnet.comparison.questions import ScoredDocuments, group_name, group_of, groups
from gmmxlnet.errors import DataError

D, DOCUMENTS = 240, 24
SEGMENTS = np.repeat([1, 3, 7, 20], D // 4).astype(np.int32)
SUBJECTS_OF = (np.arange(D) % 4).astype(np.int32)
PLACES = np.where(np.arange(D) % 3 == 0, 0, np.minimum(1 + np.arange(D) % 5, SEGMENTS)).astype(np.int32)


@pytest.fixture
def make_scored(make_result):
    """A function to results: right where a fixed draw lies below 0.5 plus what a group gains."""

    def make(variant, seed=13, gain=0.0, where=None, budget=9, floor=28.6, **cost):
        draw_D = np.random.default_rng(seed).random(D)
        gain_D = gain * (np.ones(D) if where is None else where)
        right_D = 100 * (draw_D < 0.5 + gain_D).astype(np.float32)
        shares = [0.5, 0.5] if variant.startswith("gmm") else None
        result = make_result(
            variant, seed, normal=(float(right_D.mean()), 0), typed=False, shares=shares, floor=floor, **cost
        )
        more = {"expert_diversity": [[1.0, 0.2], [0.2, 1.0]], "routing_consistency": 0.75, "pattern": "balanced"}
        result.routing.update(more)
        result.metrics["total"] = D
        return ScoredDocuments(
            result=result, identity="i", questions="q", setting={"budget": f"{budget} steps"},
            exact_match=right_D, f1=right_D,
            context=np.repeat(np.arange(DOCUMENTS), D // DOCUMENTS).astype(np.int32), segments=SEGMENTS, place=PLACES,
            subject=SUBJECTS_OF,
        )  # fmt: skip

    return make


def row(page, first, section):
    """The cells of a table's row in the section of that title."""
    (body,) = re.findall(rf"^## {section}.*?\n(.*?)(?=^## |\Z)", page, flags=re.DOTALL | re.MULTILINE)
    (line,) = [line for line in body.splitlines() if re.match(rf"\| {re.escape(first)} +\|", line)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_gain_is_found_where_it_is(make_scored):
    late = SEGMENTS == 20
    page = render_long_documents([make_scored("none"), make_scored("gmm-k4-write", gain=0.4, where=late)])
    assert "**Better than `none` beyond chance:** gmm-k4-write +" in page
    cells = row(page, "gmm-k4-write, difference", "Where: by number of segments")
    assert cells[1:4] == ["+0.0 (-39.0 to 39.0)"] * 3  # six contexts a group, none of which differs
    assert float(cells[4].split()[0]) > 30
    header = row(page, "variant", "Where: by number of segments")
    assert header == ["variant", "1 (60)", "3 to 4 (60)", "5 to 8 (60)", "17 or more (60)"]
    assert row(page, "variant", "Where: by distance")[-1] == "no answer (80)"
    header = row(page, "variant", "Where: by how the sentence")
    assert header == ["variant", "no answer (60)", "name (60)", "pronoun (60)", "neither (60)"]


def test_a_null_result_is_said_like_a_gain(make_scored):
    other = make_scored("token", gain=0.0)
    page = render_long_documents([make_scored("none"), other])
    assert "**No variant is better than `none` beyond chance: here memory has not been shown to help.**" in page
    assert "No difference beyond chance (the interval holds 0): token." in page


def test_what_harms_is_named(make_scored):
    page = render_long_documents([make_scored("none"), make_scored("mems", gain=-0.4)])
    assert re.search(r"Worse beyond chance: mems -\d", page)


def test_seeds_are_paired_and_averaged(make_scored):
    scored = [make_scored(name, seed, gain) for name, gain in (("none", 0), ("token", 0.3)) for seed in (13, 14)]
    cells = row(render_long_documents(scored), "token", "By how much")
    gains = [scored[2 + i].exact_match.mean() - scored[i].exact_match.mean() for i in range(2)]
    assert cells[1] == "13, 14"
    assert float(cells[4].split()[0]) == pytest.approx(np.mean(gains), abs=0.06)
    without = render_long_documents([scored[0], scored[3]])  # no seed in common
    assert row(without, "token", "By how much")[4] == "n/a"


def test_reconstruction_is_compared_with_none_of_it(make_scored):
    scored = [make_scored("none"), make_scored("token", gain=0.3), make_scored("token-norec")]
    page = render_long_documents(scored)
    assert re.search(r"With memory reconstruction against without it, points of EM: token \+\d", page)


def test_cost_experts_and_what_is_missing_are_told(make_scored):
    scored = [
        make_scored("none", tokens_per_second=1000.0, parameters=100),
        make_scored("gmm-k4-read", tokens_per_second=800.0, parameters=120),
    ]
    page = render_long_documents(scored, ["token-s13"])
    assert "Training speed and parameters relative to `none`: gmm-k4-read 80% and 120%." in page
    assert row(page, "gmm-k4-read", "The experts: specialization")[2:] == ["0.20", "0.75", "balanced"]
    assert "Not finished, hence not in here:** `token-s13`" in page
    assert render_long_documents([]).endswith("Nothing is finished yet.\n")


def test_unlike_settings_are_said(make_scored):
    page = render_long_documents([make_scored("none"), make_scored("token", budget=10), make_scored("mems")])
    assert "* budget: 9 steps; **or** 10 steps\n" in page


def test_a_baseline_at_the_floor_is_no_ground_to_judge_from(make_scored):
    warning = "`none` itself is not clearly above the floor: what follows says little about memory."
    assert warning in render_long_documents([make_scored("none", floor=60.0), make_scored("token", floor=60.0)])
    assert warning not in render_long_documents([make_scored("none"), make_scored("token")])


def test_groups_have_names_and_every_question_is_in_one(make_scored):
    names = [group_name(int(index)) for index in group_of(np.array([1, 2, 3, 4, 5, 8, 9, 16, 17, 99]))]
    assert names == ["1", "2", *["3 to 4"] * 2, *["5 to 8"] * 2, *["9 to 16"] * 2, *["17 or more"] * 2]
    for of in ("segments", "place", "subject"):
        assert (np.sum(list(groups(make_scored("none"), of).values()), axis=0) == 1).all()


def test_a_result_comes_back_from_its_file(make_scored, tmp_path):
    scored = make_scored("gmm-k2-read", 14, 0.2, parameters=7)
    scored.write(tmp_path / "one.safetensors")
    again = ScoredDocuments.read(tmp_path / "one.safetensors")
    assert again.result == scored.result
    for name in ("identity", "questions", "setting"):
        assert getattr(again, name) == getattr(scored, name)
    assert np.array_equal(again.place, scored.place)
    assert np.array_equal(again.subject, scored.subject)
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a result of make long-documents"):
        ScoredDocuments.read(tmp_path / "other.safetensors")
