"""Nothing that is printed, logged or written for others holds a credential or acts on a terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from gmmxlnet.errors import CheckpointError, DatasetError, GMMXLNetError, reason_of
from gmmxlnet.messages import holds_credentials, keep_secret, printable, said, say, without_credentials
from gmmxlnet.options import shown
from gmmxlnet.sharing.model_card import model_card
from gmmxlnet.utils.files import write_json
from pipeline.experiment import Experiment
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
