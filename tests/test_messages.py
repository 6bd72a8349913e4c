"""Nothing that is printed, logged or written for others holds a credential or acts on a terminal."""

import ast
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from gmmxlnet.analysis.plots import plot_memory_ablation, plot_routing_by_question_type, save_figure
from gmmxlnet.comparison.report import render_report
from gmmxlnet.errors import CheckpointError, DatasetError, GMMXLNetError, reason_of
from gmmxlnet.messages import (
    code_block,
    code_span,
    holds_credentials,
    json_for_terminals,
    keep_secret,
    markdown,
    printable,
    said,
    say,
    without_credentials,
)
from gmmxlnet.options import shown
from gmmxlnet.sharing.model_card import model_card
from gmmxlnet.utils.files import write_json
from gmmxlnet.utils.tables import markdown_table
from pipeline.experiment import Experiment
from pipeline.mlflow_run import _numbers
from pipeline.tracking import start_run
from tests.pipeline.test_tracking import PARAMETERS

ROOT = Path(__file__).resolve().parents[1]
SECRET = "s3cret-Pa55word"
TOKEN = "hf_" + "q" * 34
TEXTS = [
    f"postgresql://me:{SECRET}@db:5432/mlflow: no such host",
    f"https://me:{SECRET}@host/path?x=1",
    f"https:/me:{SECRET}@host as a path shows it",
    f"http://{SECRET}@host",
    f"mysql://me:a/b@c{SECRET}@host/db (never quoted)",
    f"https://host/file?X-Amz-Signature={SECRET}&X-Amz-Date=1",
    f"https://host/file?a=b&access_token={SECRET}",
    f"Authorization: Basic {SECRET}",
    f"{{'Authorization': 'Bearer {SECRET}'}}",
    f"password={SECRET};host=db",
    f'{{"api_key": "{SECRET}"}}',
]
KEPT = [
    "memory_num_tokens=4, tokens: 512, max_tokens 3",
    "http://localhost:port/#/experiments/1",
    "see hf_hub_download and gmmxlnet.data.tokenizer",
    "write to me@example.org or see https://status.huggingface.co",
    "the token may not do this here (403); use one with write access",
]


@pytest.mark.parametrize("text", [*TEXTS, f"the token {TOKEN} is not known"])
def test_credentials_are_taken_out(text):
    for secret in (SECRET, TOKEN):
        assert secret not in without_credentials(text)
    assert "***" in without_credentials(text)
    assert holds_credentials(text)


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_credential_stays(text):
    assert without_credentials(text) == text
    assert not holds_credentials(text)


def test_secrets_of_the_environment_and_of_files_are_known_by_themselves(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("HTTPS_PROXY", "me:battery%20staple@proxy:3128")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")
    monkeypatch.setenv("HF_TOKEN_PATH", "/home/me/token")
    keep_secret("tok-of-a-file")
    text = "correct horse, correct%20horse, battery staple, battery%20staple, tok-of-a-file, parallel, /home/me/token"
    assert without_credentials(text) == "***, ***, ***, ***, ***, parallel, /home/me/token"


def test_a_cut_text_shows_no_half_credential():
    url = f"https://{'u' * 20}:{'p' * 80}@host"
    for text in (shown(url), shown([url]), reason_of(OSError("x" * 150 + url)), said(url, 40)):
        assert "pp" not in text


def test_errors_are_clean_lines_whoever_prints_them():
    hostile = f"a\x1b[2Jb\x9bc\u202ed\ne https://me:{SECRET}@host"
    for error in (GMMXLNetError(hostile), CheckpointError(hostile)):
        assert str(error) == r"a\x1b[2Jb\x9bc\u202ed e https://***@host"
    lines = str(DatasetError([hostile, "second"], 5)).splitlines()
    assert lines == [r"a\x1b[2Jb\x9bc\u202ed e https://***@host", "second", "and 3 more faults like these"]


@given(st.text())
def test_a_line_is_one_printable_line(text):
    line = printable(text)
    assert len(line.splitlines()) <= 1
    assert line.replace("\u200d", "").replace("\u200c", "").isprintable()


def test_text_of_any_script_is_kept():
    for text in ("नमस्ते", "می‌خواهم", "สวัสดี", "👩‍🚀 Ünal  \u0301", "日本語"):
        assert printable(text) == text


def test_say_prints_on_a_terminal_that_cannot(capsys, tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        say(f"“a” \x1b[1m https://x:{SECRET}@h", file)
    assert (tmp_path / "out").read_bytes() == b"\\u201ca\\u201d \\x1b[1m https://***@h\n"


CHANNELS = f"""
import logging, sys, warnings
import transformers.utils.logging  # which has handlers of its own
from gmmxlnet.utils.logs import set_log_level
from pipeline.stage import errors_on_one_line
from gmmxlnet.errors import ConfigError
set_log_level("info")
hostile = "https://me:{SECRET}@host \\x1b[2J\\x9b\\u202e"
logging.getLogger("gmmxlnet.x").warning("one\\ntwo %s", hostile)
logging.getLogger("pipeline.x").info("%s", hostile)
logging.getLogger("huggingface_hub.x").error("one\\ntwo %s", hostile)
logging.getLogger("transformers.x").error(hostile)
try:
    raise ValueError(hostile)
except ValueError:
    logging.getLogger("mlflow").exception("told")
warnings.warn(hostile)
"""
ENDS = {
    "an error": 'with errors_on_one_line("stage"): raise ConfigError(hostile)',
    "a file": 'with errors_on_one_line("stage"): raise PermissionError(13, "Permission denied", hostile)',
    "memory": 'with errors_on_one_line("stage"): raise MemoryError(hostile)',
    "a bug": 'with errors_on_one_line("stage"): raise KeyError(hostile)',
}


@pytest.mark.parametrize("end", ENDS)
def test_every_channel_of_a_process_is_clean(end):
    done = subprocess.run([sys.executable, "-c", CHANNELS + ENDS[end]], capture_output=True, text=True, cwd=ROOT)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert SECRET not in said
    assert not set(said) & {"\x1b", "\x9b", "\u202e"}
    assert said.count("https://***@host") >= 8
    assert "one two https://" in said
    assert "one\ntwo https://" in said


PROGRESS = """
import os, sys
from huggingface_hub import hf_hub_url
from huggingface_hub.file_download import http_get
from gmmxlnet.messages import guard_output
guard_output()
with open(os.devnull, "wb") as file:
    http_get(hf_hub_url("me/odd", "a.json"), file, displayed_filename=sys.argv[1], expected_size=1000)
"""


def test_progress_bars_name_files_of_a_server_as_text(hub):
    """huggingface_hub's own bar, of a real download by a name as datasets gives it, on a real terminal."""
    name = "a\x1b[2J\x9b\u202eb.json"
    hub.add("me/odd", {"a.json": b"x" * 1000})
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))  # a bar on a terminal of no width is empty
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_DISABLE_PROGRESS_BARS"}
    command = [sys.executable, "-c", PROGRESS, name]
    done = subprocess.run(command, stderr=theirs, stdout=theirs, cwd=ROOT, env=environment)
    os.close(theirs)
    printed = b""
    with contextlib.suppress(OSError):  # Linux's end of a terminal
        while part := os.read(ours, 1 << 16):
            printed += part
    os.close(ours)
    shown = printed.decode()
    assert done.returncode == 0, shown
    assert "a\\x1b[2J\\x9b\\u202eb.json: 100%" in shown
    assert not any(raw in shown for raw in ("\x1b[2J", "\x9b", "\u202e"))


@pytest.mark.slow
def test_a_store_with_a_password_is_not_named_in_full(tmp_path):
    """The whole train stage's opening of MLflow, with the password in the address and in a variable of its own."""
    for uri in (f"http://me:{SECRET}@127.0.0.1:1", f"x://me:{SECRET}@h"):
        code = (
            "from tests.test_messages import *\nwith start_run(Experiment(parameters=PARAMETERS, data='x'), 'k'): pass"
        )
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_TRACKING_PASSWORD": SECRET}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr
        assert "warning: MLflow failed and this run goes on without it" in done.stderr
        assert SECRET not in done.stdout + done.stderr


def test_runs_and_cards_hold_no_credential(tmp_path, monkeypatch):
    """An experiment.json of another tool, say: what it says goes into parameters, tags, data sets and the card."""
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("DVC_EXP_NAME", f"https://me:{SECRET}@host")
    parameters = PARAMETERS | {"dataset": f"https://me:{SECRET}@host/data", "profile": TOKEN}
    experiment = Experiment(parameters=parameters, data="x")
    with start_run(experiment, "k") as run:
        run.set_tags({"note": f"see https://me:{SECRET}@host"})
    found = MlflowClient(store).get_run(run.run_id)
    text = json.dumps([found.data.params, found.data.tags])
    assert found.data.params["dataset"] == "https://***@host/data"
    assert SECRET not in text
    assert TOKEN not in text
    config = {"memory_type": "none", "n_layer": 1, "d_model": 8}
    card = model_card("me/model", config, name="none", parameters=parameters)
    assert SECRET not in card
    assert TOKEN not in card


def test_parameters_with_a_credential_are_refused_before_any_report_repeats_them(tmp_path):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for value in (f"https://me:{SECRET}@host/model", TOKEN):
        assert "base_model: scratch" in text
        (tmp_path / "params.yaml").write_text(text.replace("base_model: scratch", f"base_model: {value}"))
        code = f"from pipeline.params import load_params\nload_params({str(tmp_path / 'params.yaml')!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert "base_model holds a password or a token" in done.stderr
        assert value not in done.stderr


def test_data_is_not_altered(tmp_path):
    """Documents and answers may hold anything: only what is said about them is cleaned."""
    write_json(tmp_path / "predictions.json", {"q": f"https://me:{SECRET}@host"})
    assert SECRET in (tmp_path / "predictions.json").read_text(encoding="utf-8")


HOSTILE = "a*b_c `d` [e](f) <g> | ~h\\ ```\n# \x9b\u202e$x^2$"


def test_markdown_has_no_meaning_in_names():
    assert markdown("data/squad_v2 (local files), 4.5%") == "data/squad_v2 (local files), 4.5%"
    assert markdown("# not a title") == r"\# not a title"
    assert markdown("_not emphasis_ but snake_case") == r"\_not emphasis\_ but snake_case"
    assert markdown(HOSTILE) == (r"a\*b_c \`d\` \[e\](f) \<g\> \| \~h\\ \`\`\` # \\x9b\\u202e$x^2$")
    assert code_span("a`b") == "``a`b``"
    assert code_span("`") == "`` ` ``"
    assert code_block("a\n```\nb", "json") == "````json\na\n```\nb\n````"


def test_a_table_cell_stays_one_cell():
    text = markdown_table(pd.DataFrame([[markdown("a|b"), "c|d\x1b\u202e\ne"]], columns=["x|y", "z"]))
    assert [cell.strip() for cell in re.split(r"(?<!\\)\|", text.splitlines()[2])[1:-1]] == [
        r"a\|b",
        r"c\|d\x1b\u202e e",
    ]


def test_cards_and_reports_show_hostile_names_as_text():
    config = {"memory_type": "none", "n_layer": 1, "d_model": 8}
    floor = {"exact_match": 50.0, "f1": 50.0}
    metrics = {"exact_match": 1.0, "f1": 1.0, "total": 2, "null_score_diff_threshold": 0.0, "always_no_answer": floor}
    metrics |= {"HasAns_f1": 1.0, "HasAns_total": 1, "NoAns_f1": 1.0, "NoAns_total": 1}
    parameters = {"dataset": "a\n```\n# title"}
    card = model_card('x")\nimport os #', config, name=HOSTILE, metrics=metrics, dataset=HOSTILE, parameters=parameters)
    body = card.split("---\n", 2)[2]
    assert markdown(HOSTILE) in body
    assert "[e](f)" not in body
    assert not set(card) & {"\x9b", "\u202e"}
    code = re.search("```python\n(.*?)```", body, re.DOTALL)[1]
    assert [type(node).__name__ for node in ast.parse(code).body] == ["ImportFrom", "ImportFrom", "Assign", "Assign"]
    page = render_report("Title", [], {"profile": HOSTILE}, {HOSTILE: HOSTILE}, "plot.png")
    assert f"* profile: {markdown(HOSTILE)}\n" in page
    assert f"* {code_span(HOSTILE)}: {markdown(HOSTILE)}" in page


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_for_terminals_says_the_same(value):
    text = json_for_terminals(value)
    assert json.loads(text) == value
    assert text.replace("\n", "").replace("\u200c", "").replace("\u200d", "").isprintable()


@pytest.mark.parametrize(
    "kind", ["a//b", "/", "//", "..", ".", "", "a/../b", "x" * 3000, "é:\x1b[2J", "$x$", "a/b", "a_b"]
)
def test_no_question_type_breaks_a_run(kind, tmp_path_factory, monkeypatch):
    store = f"sqlite:///{tmp_path_factory.getbasetemp() / 'types.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    report = tmp_path_factory.mktemp("types") / "metrics.json"
    write_json(report, {"by_question_type": {kind: {"exact_match_interval": [1.0, 2.0]}, "other": {"f1": 3.0}}})
    with start_run(Experiment(parameters=PARAMETERS, data=kind), "k") as run:
        run.log_report(report, "dev/memory_ablation/shuffled")
    found = MlflowClient(store).get_run(run.run_id).data.metrics
    assert len(found) == 3
    assert found["dev/memory_ablation/shuffled/by_question_type/other/f1"] == 3.0
    assert sorted(value for name, value in found.items() if name.endswith(("low", "high"))) == [1.0, 2.0]


def test_question_types_that_differ_are_metrics_that_differ():
    names = dict(_numbers({"a/b": 1, "a_b": 2, "a//b": 3, "a b": 4, "": 5, ".": 6, "x" * 100: 7, "x" * 99: 8}, "dev"))
    assert sorted(names.values()) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("kind", ["$x", "$x^$", r"\$", "a\nb", "x" * 500, "\u202e\x1b", "$\\frac{1}{0}$"])
def test_plots_show_any_question_type(kind, tmp_path):
    row = {"exact_match": 1.0, "exact_match_interval": None}
    memory = {name: {**row, "by_question_type": {kind: row}} for name in ("normal", "zeroed", "shuffled", "reset")}
    metrics = {"memory_ablation": memory, "by_question_type": {kind: row}, "always_no_answer": row}
    save_figure(plot_memory_ablation(metrics), tmp_path / "a.png")
    share = {"expert_utilization": [0.25, 0.75]}
    save_figure(plot_routing_by_question_type({kind: share, "other": share}), tmp_path / "b.png")
