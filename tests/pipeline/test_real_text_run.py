"""`make real-text` in miniature: code words, stories and articles by an encoder of one layer, killed and run again."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from gmmxlnet.cli import main as shell
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.errors import GMMXLNetError
from gmmxlnet.models.build import pretrained_model
from pipeline.real_text import base_model, main, parse, plan_all
from tests.data.test_code_words import record

ROOT = Path(__file__).resolve().parents[2]
SMALL = "profiles.articles."
SETTINGS = [
    *("memory_num_tokens=2", f"{SMALL}max_seq_length=64", f"{SMALL}doc_stride=4", f"{SMALL}max_question_length=16"),
    *(f"{SMALL}max_train_documents=20", f"{SMALL}calibration_fraction=0.2", f"{SMALL}progressive_segments=null"),
    *(f"{SMALL}batch_size=4", f"{SMALL}max_steps=2", f"{SMALL}precision=float32", f"{SMALL}max_eval_documents=12"),
]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with parameters, a SQuAD folder and a pretrained encoder."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for split, numbers in (("train", range(40)), ("dev", range(40, 44))):
        for folder in ("squad", "stories"):
            (tmp_path / folder).mkdir(exist_ok=True)
            data = [record(number) for number in numbers]
            (tmp_path / folder / f"{split}.json").write_text(json.dumps({"data": data}), encoding="utf-8")
    size = ["--n-layer", "1", "--d-model", "16", "--n-head", "2", "--d-inner", "16", "--length", "16"]
    how = ["--steps", "1", "--batch-size", "4", "--device", "cpu", "--no-induction-heads"]
    made = ["--corpus", str(tmp_path / "squad/train.json"), "--tokenizer", "scratch"]
    where = ["--tokens", str(tmp_path / "corpus"), "--output", str(tmp_path / "encoder")]
    assert shell(["pretrain", *made, *where, *size, *how]) == 0
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*more):
    given = ["--reader", "encoder", "--squad", "squad", "--stories", "stories", "--loads", "3", "--seeds", "13"]
    return [*given, "--num-train", "10", "--num-dev", "4", "--set", *SETTINGS, *more]


@pytest.mark.slow
def test_one_command_makes_documents_trains_scores_and_tells(workplace, capsys):
    chosen = ("--variants", "none", "token")
    main(command(*chosen))
    names = {file.stem for file in Path("reports/real-text").glob("*.safetensors")}
    tasks = ("code-words-load3", "stories", "articles")
    expected = {f"real-text-{task}-{variant}-s13" for task in tasks for variant in ("none", "token")}
    assert names == expected | {f"real-text-code-words-load3-{end}-none-s13" for end in ("repeated", "removed")}
    page = Path("reports/real-text.md").read_text(encoding="utf-8")
    for title in ("In words", "Code words, 3 in a document", "Whole stories", "Whole articles"):
        assert f"## {title}\n" in page
    assert "floor: definitions removed, `none` reaches" in page
    assert len(Path("reports/real-text.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(names)
    assert Path("reports/real-text.png").stat().st_size > 1000

    lost = Path("reports/real-text/real-text-stories-none-s13.safetensors")
    lost.unlink()  # as if it had been killed after its training
    with pytest.raises(
        GMMXLNetError, match=r"no result of real-text-stories-none-s13; the same command again runs only"
    ):
        main(command(*chosen, "--report-only"))
    capsys.readouterr()
    main(command(*chosen))
    assert capsys.readouterr().out.count(" is done\n") == len(names) - 1
    assert lost.exists()


def test_a_trained_model_without_memory_serves_as_the_reader(workplace):
    tokenizer = load_tokenizer("encoder")
    model = pretrained_model("encoder", None, tokenizer, {"memory_type": "none"})
    model.save_pretrained("reader")
    tokenizer.save_pretrained("reader")
    base = base_model("reader")
    assert base.startswith(".long-documents/reader-")
    assert base_model("reader") == base
    again = pretrained_model(base, None, load_tokenizer(base), {"memory_type": "token", "memory_slots": 2})
    assert torch.equal(again.qa_head.weight, model.qa_head.weight)
    assert base_model("encoder") == "encoder"
    assert base_model("owner/of-the-hub") == "owner/of-the-hub"


def test_stories_may_be_left_out_and_code_words_are_made_once(workplace):
    given = ["--reader", "encoder", "--squad", "squad", "--loads", "3", "--num-train", "4", "--num-dev", "2"]
    arguments = parse([*given, "--variants", "none", "--set", *SETTINGS])
    names = [one.name for one in plan_all(arguments)]
    assert len(names) == 4 * 3  # code words, two controls and articles, three seeds
    assert not any("stories" in name for name in names)
    files = sorted(Path(".long-documents/code-words").glob("*/train.json"))
    before = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 3
    plan_all(arguments)
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_named_comparison_has_a_report_of_its_own(workplace):
    with pytest.raises(GMMXLNetError, match=r"no result of brief-stories-none-s13; "):
        main(command("--name", "brief", "--tasks", "stories", "--variants", "none", "--report-only"))
    assert "brief-stories-none-s13" in Path("reports/brief.md").read_text(encoding="utf-8")
    assert not Path("reports/real-text.md").exists()
