"""The rules of options: what each form takes and how it says so, and rules that tie several options together."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmmxlnet import options
from gmmxlnet.errors import ConfigError
from gmmxlnet.memory_kinds import KINDS, MAX_EXPERTS, MIN_EXPERTS
from gmmxlnet.options import Flag, Integer, ListOf, Number, OneOf, OneOrEach, Optional, Text, shown
from gmmxlnet.windows import check_window, context_window

GROUPS = ("MEMORY", "LOSS", "ADAPTER", "ENCODER", "CHUNKING", "RUN", "TRAINING", "EVALUATION", "HUB")
RULES = [(name, rule) for group in GROUPS for name, rule in getattr(options, group).items()]
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("rule", "words", "right", "wrong"),
    [
        (Integer(), "an integer", [-1, 0, 10**30], [1.0, True, "1", None, [1]]),
        (Integer(2), "an integer >= 2", [2, 3], [1, -2]),
        (Integer(2, 8), "an integer in [2, 8]", [2, 8], [1, 9, 10**5000]),
        (Integer(2, 8, step=2), "an even integer in [2, 8]", [2, 4, 8], [3, 10, 0]),
        (Integer(6, 9, step=3), "a multiple of 3 in [6, 9]", [6, 9], [7, 12]),
        (Integer(0, 4, says="few"), "few", [0], [5]),
        (Number(above=0), "> 0 and finite", [1, 1e-30], [0, 0.0, -1, NAN, INF, True, "1", None, 10**400]),
        (Number(least=0), ">= 0 and finite", [0, 0.5], [-1e-9, NAN, INF]),
        (Number(least=0, below=1), "a number in [0, 1)", [0, 0.99], [1, 1.0, -0.1, NAN]),
        (Number(above=0, most=1), "a number in (0, 1]", [1, 0.5], [0, 1.1]),
        (Number(above=0, below=1), "a number in (0, 1)", [0.5], [0, 1]),
        (Flag(), "true or false", [True, False], [0, 1, "true", None]),
        (OneOf(("a",)), "a", ["a"], ["b", "", None, 3]),
        (OneOf(("a", "b", "c")), "a, b or c", ["a", "c"], ["abc", ["a"]]),
        (Text("a name"), "a name", ["x"], ["", 3, None, "x" * 5000]),
        (Text("a name", r"[a-z]+"), "a name", ["xy"], ["X", "x\n", "x y"]),
        (Optional(Integer(1), "for all"), "an integer >= 1, or null for all", [None, 1], [0, "null"]),
        (Optional(Flag()), "true or false, or null", [None, True], [0]),
        (ListOf(Integer(1), "integers >= 1"), "integers >= 1", [[1], [2, 1]], [[], [0], 1, (1,), [1] * 1001]),
        (OneOrEach(OneOf(("a", "b"))), "a or b, or a list with one of them for each expert", ["a", ["a", "b"]], ["c"]),
    ],
    ids=shown,
)
def test_each_form_of_rule(rule, words, right, wrong):
    assert rule.words == words
    for value in right:
        rule.require("name", value)
    for value in wrong:
        with pytest.raises(ConfigError) as caught:
            rule.require("name", value)
        assert str(caught.value) == f"name must be {words}, not {shown(value)}"


@pytest.mark.parametrize(("name", "rule"), RULES, ids=[name for name, _ in RULES])
def test_every_option_refuses_what_nobody_means(name, rule):
    values = ({}, {"a": 1}, (), b"x", 1j, NAN, INF, -INF, 10**39, 10**5000, "\n", "x" * 5000, -100, [[[]]])
    for value in (*values, *([] if name == "memory_gate_bias" else [-1])):
        with pytest.raises(ConfigError) as caught:
            rule.require(name, value)
        said = str(caught.value)
        assert said.startswith(f"{name} must be ")
        assert "\n" not in said
        assert len(said) < 250


def test_an_option_has_one_rule():
    names = [name for name, _ in RULES]
    assert len(names) == len(set(names))


def test_a_name_that_comes_later_is_known():
    names = {"a": 1, "b": 2}
    rule = OneOf(names)
    names["c"] = 3
    assert rule.accepts("c")
    assert rule.words == "a, b or c"


def test_kinds_of_memory_are_those_that_are_registered():
    assert options.MEMORY["memory_type"].names is KINDS


def test_the_number_of_experts_is_that_of_the_kinds():
    rule = options.MEMORY["num_memory_experts"]
    assert [k for k in range(20) if rule.accepts(k)] == list(range(MIN_EXPERTS, MAX_EXPERTS + 1))


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text() | st.booleans(), st.lists))
def test_a_wrong_value_is_quoted_on_one_short_line(value):
    text = shown(value)
    assert len(text) <= 60
    assert len(text.splitlines()) == 1


def test_a_number_too_long_to_print_is_described():
    assert shown(10**4999) == "a number of about 5000 digits"
    assert shown([10**4999]) == "a list of endless numbers"


@given(*[st.integers(1, 300)] * 2, st.integers(0, 32), st.integers(0, 100))
def test_the_length_that_is_advised_is_the_least_that_will_do(length, question, slots, stride):
    try:
        check_window(length, question, slots, stride)
    except ConfigError as error:
        advised = int(str(error).split("give it ")[1].split()[0])
        check_window(advised, question, slots, stride)
        with pytest.raises(ConfigError):
            check_window(advised - 1, question, slots, stride)
    else:
        assert context_window(length, question, slots) > stride


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ((2, [1, 2, 3], 0.1, 0.1), r"num_epochs must be at least 3, .* progressive_segments \[1, 2, 3\], not 2"),
        ((3, [1, 2, 3], 0.25, 0.8), "decay_fraction must be at most 0.75, which is what warmup_fraction 0.25 leaves"),
        ((3, [1, 2, 3], 0.25, 0.75), None),
        ((1, None, 0.0, 1.0), None),
    ],
)
def test_schedules(schedule, message):
    if message is None:
        options.check_schedule(*schedule)
    else:
        with pytest.raises(ConfigError, match=message):
            options.check_schedule(*schedule)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [0, 1, 32, 33])
def test_slots_are_needed_where_the_kind_has_them(kind, slots):
    if KINDS[kind].slots and slots in (0, 33):
        with pytest.raises(ConfigError, match=f"memory_num_tokens must be > 0 .* memory_type is {kind}, not {slots}"):
            options.check_slots(kind, slots)
    else:
        options.check_slots(kind, slots)


def test_heads_divide_the_hidden_size():
    options.check_heads("memory_heads", 4, 12)
    with pytest.raises(ConfigError, match="memory_heads must divide d_model, which is 12, not 5"):
        options.check_heads("memory_heads", 5, 12)


def test_neither_torch_nor_pydantic_is_needed():
    code = "import sys, gmmxlnet.options; print({'torch', 'pydantic', 'numpy', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
