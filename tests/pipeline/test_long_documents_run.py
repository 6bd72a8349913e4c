"""`make long-documents` in miniature: an encoder pretrained on the sample, three variants, one of them killed."""

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gmmxlnet.cli import main as shell
from gmmxlnet.comparison.questions import ScoredDocuments
from gmmxlnet.errors import ConfigError, GMMXLNetError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.checkpoint.manifest import Manifest
from gmmxlnet.verification import verify
from pipeline.long_documents import EVERY, Job, main, make_once, parse, plan_all

ROOT = Path(__file__).resolve().parents[2]
SMALL = "profiles.articles."
SETTINGS = [
    *("memory_num_tokens=2", f"{SMALL}dataset=data/sample", f"{SMALL}max_seq_length=56", f"{SMALL}doc_stride=4"),
    *(f"{SMALL}max_question_length=12", f"{SMALL}max_train_documents=60", f"{SMALL}max_eval_documents=12"),
    *(f"{SMALL}calibration_fraction=0.2", f"{SMALL}batch_size=8", f"{SMALL}gradient_accumulation_steps=1"),
    *(f"{SMALL}max_steps=3", f"{SMALL}num_workers=0", f"{SMALL}precision=float32", f"{SMALL}save_steps=2"),
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with parameters, data and a pretrained encoder, as in the repository."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("params.yaml", "dvc.yaml", "data/sample/train.json", "data/sample/dev.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    size = ["--n-layer", "1", "--d-model", "16", "--n-head", "2", "--d-inner", "16", "--length", "32"]
    how = ["--steps", "1", "--batch-size", "4", "--device", "cpu", "--no-induction-heads"]
    made = ["--corpus", str(folder / "data/sample/train.json"), "--tokenizer", "scratch"]
    where = ["--tokens", str(folder / "data/corpus"), "--output", str(folder / "models/encoder")]
    assert shell(["pretrain", *made, *where, *size, *how]) == 0
    return folder


@pytest.fixture
def run(workplace, monkeypatch, capsys):
    """A function from options to what the command prints."""
    monkeypatch.chdir(workplace)

    def command(*options):
        main(["--seeds", "13", "--set", *SETTINGS, *options])
        return capsys.readouterr().out

    return command


@pytest.mark.slow
def test_one_command_trains_scores_and_tells(workplace, run):
    variants = ("none", "gmm-k2-write", "gmm-k2-write-norec")
    run("--variants", *variants)
    page = Path("reports/long-documents.md").read_text(encoding="utf-8")
    for title in ("In words", "By how much", "Where: by number of segments", "Where: by distance of the answer"):
        assert f"## {title}" in page
    for title in ("The same models with their memory taken away", "The experts: specialization", "At what cost"):
        assert f"## {title}" in page
    assert "With memory reconstruction against without it, points of EM: gmm-k2-write " in page
    files = {name: Path(f"reports/long-documents/long-documents-{name}-s13.safetensors") for name in variants}
    assert sum(file.stat().st_size for file in files.values()) < 100_000
    scored = ScoredDocuments.read(files["gmm-k2-write"])
    assert scored.exact_match.mean() == pytest.approx(scored.result.metrics["exact_match"], abs=1e-4)
    assert scored.result.metrics["total"] == 12
    assert scored.result.cost["tokens_per_second"] > 0
    (model,) = Path(".long-documents/models").glob("*-gmm-k2-write-s13-*")
    assert GMMXLNetForQA.from_pretrained(model).config.memory_slots == 2
    assert not list(Path(".long-documents").rglob("step-*"))
    assert {"fingerprint.json", "experiment.json", "cost.json"} <= set(Manifest.read(model).files)  # sealed
    assert verify(model, "structure").passed

    files.pop("none").unlink()  # as if it had been killed after its training
    before = {file: file.read_bytes() for file in files.values()}
    assert run("--variants", *variants).count(" is done\n") == 2
    assert {file: file.read_bytes() for file in before} == before
    with pytest.raises(GMMXLNetError, match=r"no result of long-documents-token-s13; the same command again runs only"):
        run("--variants", "none", "token", "--report-only")
    assert (
        "Not finished, hence not in here:** `long-documents-token-s13`" in Path("reports/long-documents.md").read_text()
    )


def test_with_another_encoder_nothing_of_the_old_one_counts(workplace, run):
    settings = plan_all(parse(["--seeds", "13", "--variants", "none", "--set", *SETTINGS]))[0]
    old = Job(settings).identity
    report = workplace / "models" / "encoder" / "pretraining.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | {"note": "another"}), encoding="utf-8")
    assert Job(settings).identity != old
    assert run("--variants", "none", "token", "--prepare").count("chunks-") == 1  # the same for both variants
    assert len(list(Path(".long-documents").glob("chunks-*"))) == 2


def test_one_that_fails_does_not_end_the_others(run, capsys):
    with pytest.raises(GMMXLNetError, match=r"no result of .*-mems-s13, .*-differentiable-s13;"):
        run("--variants", "mems", "differentiable", "--set", "profiles.articles.tokenizer=scratch")
    said = capsys.readouterr().err
    for name in ("mems", "differentiable"):
        refused = rf"{name}-s13 failed: base_model 'models/encoder' has a vocabulary of \d+, the tokenizer one of \d+"
        assert re.search(refused, said)


def test_everything_the_question_asks_for_is_planned(monkeypatch):
    monkeypatch.chdir(ROOT)
    planned = plan_all(parse([]))
    names = [one.name.removeprefix("long-documents-") for one in planned]
    assert len(names) == len(set(names)) == 24
    assert names[0] == "none-s13"
    for name in ("mems-s14", "gmm-k8-read-s13", "gmm-k8-read-norec-s13", "differentiable-norec-s13"):
        assert name in names
    assert {one.params.active.context for one in planned} == {"article"}
    weights = {one.variant: one.params.memory_reconstruction_weight for one in planned}
    assert weights["token-norec"] == 0 < weights["token"]
    alike = {one.params.active.model_dump_json() for one in planned}
    assert len(alike) == 1  # the same budget
    assert set(EVERY) == {one.variant for one in planned}


def test_what_has_nothing_to_reconstruct_has_no_variant_without_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match="not mems-norec"):
        plan_all(parse(["--variants", "mems-norec"]))


def test_of_several_that_need_the_same_chunks_one_makes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, folder = [], Path("chunks")

    def make():
        time.sleep(0.3)  # the others arrive meanwhile
        made.append(folder.exists())
        folder.mkdir()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: make_once(folder, make), range(4)))
    assert made == [False]
