"""Distillation: what it learns, and that the same steps give the same bits however they were interrupted."""

import json
import os
import re
import signal
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gmmxlnet.conversion import distillation
from gmmxlnet.conversion.algebra import start_segments, student_config, transplant
from gmmxlnet.conversion.distillation import Distillation, Distiller, cooldown_start, rate_at, steps_from
from gmmxlnet.conversion.families import read_teacher
from gmmxlnet.conversion.report import heldout_batches, measure
from gmmxlnet.conversion.windows import Windows
from gmmxlnet.errors import Interrupted
from gmmxlnet.models.encoder import XLNetEncoder
from gmmxlnet.utils.tensors import weights_hash


@pytest.fixture(scope="module")
def teacher(bert_folder):
    return read_teacher(str(bert_folder))


@pytest.fixture(scope="module")
def make_distiller(teacher, paragraphs):
    windows = Windows.of(paragraphs, teacher.tokenizer, text_type=1, seed=5)

    def make(folder, *, identity=None, **other):
        config = student_config(
            teacher.config, vocab_size=teacher.config.vocab_size, clamp_len=95, pad_token_id=0, sep_token_id=3
        )
        encoder = XLNetEncoder(config)
        shift_Nd = transplant(teacher.model, encoder, ridge=0.3, positions=range(1, 96, 8), token_type=1)
        start_segments(encoder, 5)
        how = {"minutes": 9.0, "steps": 8, "tokens": 400, "longest": 96, "learning_rate": 3e-3, "dtype": None}
        how = Distillation(**{**how, **other})
        return Distiller(teacher, encoder, shift_Nd, windows, how, identity=identity or {}, resume_dir=folder)

    return make


@pytest.fixture(scope="module")
def eight_steps(make_distiller, tmp_path_factory):
    distiller = make_distiller(tmp_path_factory.mktemp("whole") / "resume")
    distiller.run()
    return distiller


def bits(distiller):
    return weights_hash(distiller.encoder.state_dict())


def run_until(distiller, step):
    """Run as a process that is killed after so many steps, its state written after the last of them."""

    class KilledError(Exception):
        pass

    train_step = distiller._train_step

    def step_or_die():
        if distiller.step == step:
            distiller.save()
            raise KilledError
        return train_step()

    distiller._train_step = step_or_die
    with pytest.raises(KilledError):
        distiller.run()


def test_hidden_states_come_nearer_to_the_teacher_on_text_not_seen(make_distiller, teacher, tmp_path):
    distiller = make_distiller(tmp_path / "resume", steps=60, tokens=800)
    heldout = Windows.of(["The oven is cold. Anna ran home. Who is it?"] * 9, teacher.tokenizer, text_type=1, seed=1)
    batches = heldout_batches(heldout, 48)
    before = measure(teacher, distiller.encoder, distiller.shift_Nd, batches)
    distiller.run()
    after = measure(teacher, distiller.encoder, distiller.shift_Nd, batches)
    assert sum(distiller.losses[-10:]) < 0.85 * sum(distiller.losses[:10])
    assert after["cosine_by_layer"][-1] > before["cosine_by_layer"][-1] + 0.02
    assert after["cosine_by_distance"]["<cls>"] > before["cosine_by_distance"]["<cls>"] + 0.1


@pytest.mark.parametrize("step", [1, 5, 7])
def test_a_killed_run_goes_on_to_the_same_bits(make_distiller, eight_steps, tmp_path, step):
    run_until(make_distiller(tmp_path / "resume"), step)
    second = make_distiller(tmp_path / "resume")
    steps = []
    train_step = second._train_step
    second._train_step = lambda: (steps.append(second.step), train_step())[1]
    second.run()
    assert steps == list(range(step, 8))  # it did not begin anew
    assert bits(second) == bits(eight_steps)
    assert second.report() == eight_steps.report()


def test_minutes_give_the_bits_of_their_steps(make_distiller, eight_steps, tmp_path, monkeypatch):
    clock = iter(range(10**6))  # a second between any two looks at it: a step takes one
    monkeypatch.setattr(distillation.time, "monotonic", lambda: float(next(clock)))
    by_time = make_distiller(tmp_path / "resume", steps=None, minutes=8 / 60)
    by_time.run()
    assert by_time.total_steps == by_time.step == 8
    assert bits(by_time) == bits(eight_steps)


def test_seconds_of_all_runs_count(make_distiller, tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(distillation.time, "monotonic", lambda: float(next(clock)))
    run_until(make_distiller(tmp_path / "resume", steps=None, minutes=8 / 60), 4)
    second = make_distiller(tmp_path / "resume", steps=None, minutes=8 / 60)
    second.run()
    assert second.step == 8


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_step_with_a_last_state(make_distiller, eight_steps, tmp_path, signum):
    first = make_distiller(tmp_path / "resume")
    draw = first.windows.draw

    def draw_with_a_signal(step, **how):
        if step == 3:
            os.kill(os.getpid(), signum)
        return draw(step, **how)

    first.windows = SimpleNamespace(draw=draw_with_a_signal)
    with pytest.raises(Interrupted, match="after step 4, which is kept in ") as stopped:
        first.run()
    assert stopped.value.signum == signum
    second = make_distiller(tmp_path / "resume")
    second.run()
    assert bits(second) == bits(eight_steps)
    assert second.losses == eight_steps.losses


@pytest.mark.parametrize(
    ("other", "goes_on"),
    [
        ({}, True),
        ({"steps": 12}, True),  # at step 5 the rate of neither falls yet
        ({"steps": 4}, False),  # would be over by now
        ({"learning_rate": 1e-3}, False),
        ({"tokens": 300}, False),
        ({"identity": {"corpus": "another"}}, False),
    ],
)
def test_only_a_state_on_the_way_is_gone_on_from(make_distiller, tmp_path, other, goes_on):
    run_until(make_distiller(tmp_path / "resume"), 5)
    second = make_distiller(tmp_path / "resume", **other)
    second._resume()
    assert second.step == (5 if goes_on else 0)


def test_another_processor_begins_anew_and_says_so(make_distiller, tmp_path, set_processor, caplog):
    set_processor(amx=False)
    run_until(make_distiller(tmp_path / "resume"), 5)
    set_processor(amx=True)
    second = make_distiller(tmp_path / "resume")
    second._resume()
    assert second.step == 0
    assert "is of another conversion, library, processor or number of threads; beginning anew" in caplog.text


def test_a_damaged_state_is_left_and_said(make_distiller, eight_steps, tmp_path, caplog):
    run_until(make_distiller(tmp_path / "resume"), 5)
    (tmp_path / "resume" / distillation.WEIGHTS).write_bytes(b"half of a file")
    second = make_distiller(tmp_path / "resume")
    second.run()
    assert "cannot be read" in caplog.text
    assert bits(second) == bits(eight_steps)


def written(state, **change):
    return json.dumps({**json.loads(state), **change})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda state: "[]", "is not what convert wrote .*dictionary"),
        (lambda state: "{}", r"is not what convert wrote \(identity: Field required\)"),
        (lambda state: written(state, step="5"), r"\(step: Input should be a valid integer\)"),
        (lambda state: written(state, seconds=-1.0), r"\(seconds: "),
        (lambda state: written(state, losses=[1.0, None]), r"\(losses.1: "),
        (lambda state: written(state, losses=[1.0]), r"\(losses has another size\)"),
        (lambda state: written(state, step=4), r"\(losses has another size\)"),
        (lambda state: written(state, total_steps=True), r"\(total_steps"),
        (lambda state: state[:30], "cannot be read"),
    ],
)
def test_an_odd_state_is_said_in_one_line(make_distiller, tmp_path, caplog, damage, reason):
    run_until(make_distiller(tmp_path / "resume"), 5)
    path = tmp_path / "resume" / distillation.STATE
    path.write_text(damage(path.read_text()))
    second = make_distiller(tmp_path / "resume")
    second._resume()
    assert second.step == 0
    assert re.search(rf"resume: .*{reason}.*; beginning anew$", caplog.messages[-1])


@pytest.mark.parametrize("how", ["missing", "another", "shape", "dtype"])
def test_odd_tensors_of_a_state_are_said_in_one_line(make_distiller, tmp_path, caplog, how):
    run_until(make_distiller(tmp_path / "resume"), 5)
    path = tmp_path / "resume" / distillation.WEIGHTS
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.startswith("exp_avg "))
    if how == "missing":
        del tensors[name]
    elif how == "another":
        tensors[name := "x"] = torch.zeros(1)
    else:
        tensors[name] = tensors[name].flatten()[:1] if how == "shape" else tensors[name].double()
    save_file(tensors, path)
    second = make_distiller(tmp_path / "resume")
    before = bits(second)
    second._resume()
    assert (second.step, bits(second)) == (0, before)
    assert caplog.messages[-1].endswith(f"is not what convert wrote ({name} has another size); beginning anew")


def test_the_state_holds_json_and_safetensors_alone(make_distiller, tmp_path):
    run_until(make_distiller(tmp_path / "resume"), 2)
    assert {path.name for path in (tmp_path / "resume").iterdir()} == {"state.json", "state.safetensors"}
    assert json.loads((tmp_path / "resume" / "state.json").read_text())["step"] == 2


@given(st.integers(1, 10**6))
def test_what_minutes_decide_late_is_a_number_of_steps(start):
    total = steps_from(start)
    assert cooldown_start(total) == start
    for step in (0, start // 2, start - 1):
        assert rate_at(step, total) == rate_at(step, None)
    if total > start:  # three steps or more
        assert 0 < rate_at(total - 1, total) <= rate_at(start, total) < rate_at(start, None) <= 1


def test_positions_and_segments_learn_faster(make_distiller, tmp_path):
    distiller = make_distiller(tmp_path / "resume")
    fast, slow = distiller.optimizer.param_groups
    assert len(fast["params"]) == 5 * 3
    assert len(fast["params"]) + len(slow["params"]) == len(list(distiller.encoder.parameters()))
    distiller._train_step()
    assert fast["lr"] == pytest.approx(4 * slow["lr"])


def test_a_loss_that_is_no_number_is_said(make_distiller, tmp_path):
    distiller = make_distiller(tmp_path / "resume")
    with torch.no_grad():
        distiller.encoder.layers[0].outer.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"loss of step 0 is nan; lower --learning-rate"):
        distiller.run()
