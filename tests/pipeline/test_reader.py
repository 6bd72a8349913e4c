"""`make reader` in miniature: a random BERT, a few questions, and the way from both to answers."""

import io
import json
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch

from gmmxlnet.conversion.convert import REPORT
from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.sample import make_sample
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.errors import ConfigError, DataError
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.models.pretrained import read_base
from gmmxlnet.training.sampler import DocumentBatchSampler
from gmmxlnet.utils.files import sha256_of
from pipeline import chunk, evaluate, reader, train
from pipeline.params import load_params
from pipeline.variants import overridden
from scripts.copies import clean_environment, copy_of
from tests.conversion.conftest import make_bert, paragraphs, wordpiece  # noqa: F401 (fixtures)

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("device=cpu", "profiles.reader.max_seq_length=56", "profiles.reader.doc_stride=4"),
    *(
        "profiles.reader.max_question_length=12",
        "profiles.reader.batch_size=8",
        "profiles.reader.calibration_fraction=0.2",
    ),
]
STEPS = ("2", "3")
OUTPUTS = ("models/gmm/model.safetensors", "reports/reader.md", "reports/metrics.json", "params.yaml")


@pytest.fixture(scope="module")
def bert_folder(make_bert, wordpiece, tmp_path_factory):  # noqa: F811
    """A random BERT with the 384 positions that a conversion asks for by default."""
    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    make_bert(max_position_embeddings=384).save_pretrained(folder)
    wordpiece.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def squad(tmp_path_factory):
    """A dataset in a folder whose name DVC's command line would not take as it is."""
    folder = tmp_path_factory.mktemp("datasets") / "Anna's squad, of 2026"
    folder.mkdir()
    sample = make_sample(num_train=40, num_dev=8)
    for split, name in (("train", "train-v2.0.json"), ("dev", "dev-v2-style.json")):
        (folder / name).write_text(json.dumps(sample[split]), encoding="utf-8")
    return folder


@pytest.fixture
def make_workplace(tmp_path, monkeypatch):
    """A function to a folder with what DVC reads; the stages run in this process, without DVC."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers: stages warn and go on
    monkeypatch.setattr(reader, "dvc_repro", lambda *names: [stage.main() for stage in (chunk, train, evaluate)])

    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("params.yaml", "dvc.yaml"):
            shutil.copy(ROOT / file, folder / file)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("DVC_ROOT", str(folder))
        return folder

    deterministic = torch.are_deterministic_algorithms_enabled()
    yield make
    torch.use_deterministic_algorithms(deterministic)


def run(bert, squad, *options):
    reader.main(["--bert", str(bert), "--squad", str(squad), *options, "--set", *SMALL])


def test_from_a_bert_and_questions_to_answers(make_workplace, bert_folder, squad, capsys, monkeypatch):
    folder = make_workplace("one")
    run(bert_folder, squad, "--steps", *STEPS)
    printed = capsys.readouterr().out
    params = load_params()
    assert (params.profile, params.memory_type, params.active.max_steps) == ("reader", "none", 3)
    assert params.active.dataset == str(squad)
    assert params.active.tokenizer == params.active.base_model
    encoder = Path(params.active.base_model)
    assert encoder.parent.parent == Path("models/converted")
    assert json.loads((encoder / REPORT).read_text())["distillation"]["steps"] == 2
    model = GMMXLNetForQA.from_pretrained("models/gmm")
    assert (model.config.memory_type, model.config.dropout, model.config.clamp_len) == ("none", 0.0, 383)
    assert model.config.segment_layout["max_seq_length"] == 56

    exported = read_base("models/reader", None).model
    assert torch.equal(exported.qa_outputs.weight, model.qa_head.weight)
    assert len(load_tokenizer("models/reader")) == exported.config.vocab_size

    metrics = json.loads((folder / "reports" / "metrics.json").read_text())
    page = (folder / "reports" / "reader.md").read_text(encoding="utf-8")
    assert "`tiny-bert`, converted into an XLNet" in page
    assert f"On all {metrics['total']} dev questions" in page
    train_questions = json.loads((folder / "reports" / "data.json").read_text())["train"]["documents"]
    assert f"3 steps of 8 questions ({2400 / train_questions:.3g}% of the {train_questions} there are)" in page
    assert f"{metrics['always_answering']['f1']:.1f} (" in page
    assert re.search(rf"floor\) +\| +{metrics['always_no_answer']['f1']:.1f} ", page)
    assert 'STEPS="2 3"' in printed
    command, answers = printed.split("$ gmmxlnet ")[1].split("\n", 1)
    assert command.startswith("answer --model models/gmm --document models/converted/example.txt --threshold ")
    assert command.count("--question") == len(answers.strip().split("\n\n")) == 1  # the article has one paragraph
    text = (folder / "models" / "converted" / "example.txt").read_text(encoding="utf-8")
    assert text == make_sample(num_train=40, num_dev=8)["dev"]["data"][0]["paragraphs"][0]["context"]

    converted = []
    monkeypatch.setattr(reader, "convert", lambda *given, **_: converted.append(given))
    before = {name: sha256_of(folder / name) for name in OUTPUTS}
    run(bert_folder, squad, "--steps", *STEPS)
    run(bert_folder, squad, "--steps", *STEPS, "--plan-only")
    assert {name: sha256_of(folder / name) for name in OUTPUTS} == before
    assert converted == []


def test_the_same_steps_give_the_same_bits_elsewhere(make_workplace, bert_folder, squad):
    folders = [make_workplace(name) for name in ("one", "two")]
    for folder in folders:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            run(bert_folder, squad, "--steps", *STEPS)
    for name in OUTPUTS:
        assert sha256_of(folders[0] / name) == sha256_of(folders[1] / name), name


def test_time_becomes_steps(make_workplace, bert_folder, squad):
    """With the chunks of another length of training, whose encoder has the same weights and hence the same folder."""
    make_workplace("one")
    run(bert_folder, squad, "--steps", *STEPS)
    run(bert_folder, squad, "--steps", "2", "4")
    assert load_params().active.max_steps == 4
    assert len(list(Path("models/converted").glob("plan-*.json"))) == 2
    assert len(list(Path("models/converted").glob(f"*/tiny-bert-xlnet/{REPORT}"))) == 1
    params = load_params()
    documents = len(Documents.open(Path("data/chunks"), "train"))
    most = params.active.num_epochs * math.ceil(documents / 8)
    assert reader.affordable_steps(params, 1e6, time.monotonic()) == most
    endless = overridden(Path("params.yaml").read_text("utf-8"), ["profiles.reader.num_epochs=1000000"])
    few, many = (reader.affordable_steps(endless, seconds, time.monotonic()) for seconds in (1e4, 1e6))
    assert most < 10 * few < many < 1000 * few  # measured twice, on a machine that may be busy
    with pytest.raises(ConfigError, match=r"hours: too few to train and evaluate here; at least \d+\.\d\d are needed"):
        reader.affordable_steps(params, 3600, time.monotonic() - 3600)


def test_the_tokens_of_a_step_are_those_of_its_batches_with_their_padding(make_workplace, bert_folder, squad):
    make_workplace("one")
    run(bert_folder, squad, "--steps", *STEPS)
    params, documents = load_params(), Documents.open(Path("data/chunks"), "train")
    tokens = reader.tokens_of_steps(documents, params)
    collator = DocumentCollator(layout=documents.layout, memory_tokens=False)
    sampler = DocumentBatchSampler(documents.num_segments(), documents.num_tokens(), 8, params.seed)
    batches = [[documents[i] for i in batch] for batch in sampler]
    collated = [collator(batch)["input_ids"].numel() for batch in batches]
    assert tokens == pytest.approx(collated, rel=0.2)
    assert max(collated) > 2 * min(collated)
    pairs = [sum(tokens[i : i + 2]) for i in range(0, len(tokens), 2)]
    adding = overridden(Path("params.yaml").read_text("utf-8"), ["profiles.reader.gradient_accumulation_steps=2"])
    assert reader.tokens_of_steps(documents, adding) == pytest.approx(pairs)


def parquet(articles):
    rows = [
        {"title": article["title"], "context": paragraph["context"], "id": asked["id"], "question": asked["question"]}
        | {"answers": {key: [answer[key] for answer in asked["answers"]] for key in ("text", "answer_start")}}
        for article in articles
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    stream = io.BytesIO()
    datasets.Dataset.from_list(rows).to_parquet(stream)
    return stream.getvalue()


def test_both_may_be_hub_ids(hub, make_workplace, bert_folder, capsys):
    sample = make_sample(num_train=40, num_dev=8)
    files = {"data/train-0.parquet": parquet(sample["train"]["data"])}
    files["data/validation-0.parquet"] = parquet(sample["dev"]["data"])
    hub.add("you/squad", files, "datasets")
    hub.add("you/tiny-bert", {file.name: file.read_bytes() for file in bert_folder.iterdir()})
    make_workplace("one")
    run("you/tiny-bert", "you/squad", "--steps", *STEPS)
    params = load_params()
    assert params.active.dataset == "you/squad"
    assert Path(params.active.base_model).name == "tiny-bert-xlnet"
    assert "`you/tiny-bert`, converted into an XLNet" in Path("reports/reader.md").read_text(encoding="utf-8")
    assert "make reader BERT=you/tiny-bert SQUAD=you/squad STEPS=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bert", "", "--squad", "x"], "name both: make reader BERT="),
        (["--bert", "x", "--squad", ""], "name both: make reader BERT="),
        (["--bert", "x", "--squad", "x", "--hours", "0"], "hours must be a number > 0, not 0"),
        (["--bert", "x", "--squad", "x", "--hours", "nan"], "hours must be a number > 0, not nan"),
        (["--bert", "x", "--squad", "x", "--steps", "0", "5"], r"steps must be two integers >= 1, not \[0, 5\]"),
        (["--bert", "x", "--squad", "x", "--set", "seed=-1"], r"params\.yaml with .*: seed must be an integer in"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(make_workplace, options, words):
    folder = make_workplace("one")
    with pytest.raises(ConfigError, match=words):
        reader.main(options)
    assert (folder / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["dvc.yaml", "params.yaml"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "dictionary or an instance of Plan|Input should be an object"),
        ("{}", "encoder"),
        ('{"encoder": 1, "conversion_steps": 3, "max_steps": 4}', "encoder"),
        ('{"encoder": "x", "conversion_steps": "3", "max_steps": 4}', "conversion_steps"),
        ('{"encoder": "x", "conversion_steps": 3, "max_steps": 0}', "max_steps"),
    ],
)
def test_a_damaged_plan_is_refused_in_one_line(tmp_path, text, reason):
    file = tmp_path / "plan-ab.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"plan-ab.json: is no plan of make reader \(.*({reason})") as caught:
        reader.read_plan(file)
    assert str(caught.value).endswith("; remove it and run again")
    assert "\n" not in str(caught.value)
    file.write_text('{"encoder": "x", "conversion_steps": 3, "max_steps": 4}', encoding="utf-8")
    assert reader.read_plan(file) == reader.Plan("x", 3, 4)


def test_a_dataset_that_is_not_there_is_named(make_workplace, bert_folder):
    make_workplace("one")
    with pytest.raises(DataError, match=r"^dataset '/no/where': no such folder"):
        run(bert_folder, "/no/where")


@pytest.mark.slow
def test_make_readers_own_command_in_a_repository(bert_folder, squad, tmp_path):
    """With DVC, all stages and a time budget."""
    folder = copy_of(ROOT, tmp_path / "main")
    (folder / "dvc.lock").unlink()

    def make_reader(hours):
        command = ["--bert", str(bert_folder), "--squad", str(squad), "--hours", hours, "--set", *SMALL]
        return subprocess.run(
            [sys.executable, "-m", "pipeline.reader", *command],
            cwd=folder,
            env=clean_environment(OMP_NUM_THREADS="1"),
            text=True,
            capture_output=True,
            check=False,
        )

    printed = []
    for _ in range(2):
        done = make_reader("0.03")
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append(done.stdout)
    steps = re.search(r'STEPS="(\d+) (\d+)"', printed[0])
    assert steps is not None
    assert steps[0] in printed[1]
    assert "Data and pipelines are up to date." in printed[1]
    assert (folder / "reports" / "index.html").exists()

    too_few = make_reader("0.0001")
    assert too_few.returncode == 1
    said = [line for line in too_few.stderr.splitlines() if line.startswith("reader: ")]
    assert len(said) == 1
    assert "hours: too few to train and evaluate here" in said[0]
