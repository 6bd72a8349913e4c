"""A model card is valid metadata, says what the memory is worth, and depends on nothing but its arguments."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from gmmxlnet.models import GMMXLNetConfig
from gmmxlnet.sharing.model_card import model_card, reported_f1

METRICS = json.loads((Path(__file__).resolve().parents[2] / "reports" / "metrics.json").read_text(encoding="utf-8"))
CONFIGS = {
    "gmm": {"num_memory_experts": 4, "memory_slots": 8},
    "token": {"memory_slots": 8},
    "differentiable": {"memory_slots": 8},
    "mems": {"mem_len": 48},
    "words": {"mem_len": 48},
    "none": {},
}


def config_of(memory_type):
    return GMMXLNetConfig(memory_type=memory_type, **CONFIGS[memory_type]).to_dict()


def scored(metrics=METRICS, **other):
    arguments = {"name": "gmm-k4-write", "metrics": metrics, "dataset": "squad", "parameters": {"seed": 13, "é": "ü"}}
    return model_card("me/model", config_of("gmm"), **(arguments | other))


def test_the_metadata_is_a_valid_model_index():
    card = ModelCard(scored(hub_dataset="rajpurkar/squad_v2", hub_base_model="xlnet/xlnet-base-cased"))
    assert card.data.license == "apache-2.0"
    assert card.data.datasets == ["rajpurkar/squad_v2"]
    assert card.data.base_model == "xlnet/xlnet-base-cased"
    written = yaml.safe_load(str(card).split("---\n")[1])
    (model,) = written["model-index"]
    (result,) = model["results"]
    assert model["name"] == "gmm-k4-write"
    assert result["task"]["type"] == "question-answering"
    assert result["dataset"] == {"name": "squad", "type": "rajpurkar/squad_v2", "split": "validation"}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"exact_match": METRICS["exact_match"], "f1": METRICS["f1"]}


def test_the_text_has_the_ablations_the_floor_and_the_parameters():
    text = scored()
    rows = dict(re.findall(r"^\| (\S.*?) +\| +([\d.]+) \|", text, re.MULTILINE))
    for kind, words in (("normal", "as trained"), ("zeroed", "with an empty memory")):
        assert rows[words] == f"{METRICS['memory_ablation'][kind]['exact_match']:.2f}"
    assert rows["always answering “no answer”"] == f"{METRICS['always_no_answer']['exact_match']:.2f}"
    assert json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1]) == {"seed": 13, "é": "ü"}
    assert "Apache-2.0" in text
    assert 'from_pretrained("me/model")' in text


@pytest.mark.parametrize(
    ("memory_type", "words"),
    [
        ("gmm", "Memory: 4 memory experts of 8 slots, write-based routing"),
        ("token", "Memory: one memory of 8 slots, without a router"),
        ("differentiable", "Memory: a bank of 8 slots that every token reads"),
        ("mems", "Memory: XLNet's own recurrence"),
        ("words", "Memory: the words before, looked up"),
        ("none", "Memory: no memory"),
    ],
)
def test_every_memory_is_described(memory_type, words):
    text = model_card("me/model", config_of(memory_type), name="x")
    assert words in text
    assert "no scores for this model" in text
    assert reported_f1(text) == (None, None)


def test_nothing_depends_on_the_time():
    text = scored()
    assert text == scored()
    assert not re.search(r"\b20\d\d-\d\d|\d\d:\d\d:\d\d", text)


def test_what_was_not_measured_is_not_invented():
    """A set of one context has no other document to shuffle with; a set may have no unanswerable question."""
    ablations = METRICS["memory_ablation"] | {"shuffled": {"exact_match": None, "f1": None}}
    text = scored(METRICS | {"memory_ablation": ablations, "NoAns_total": 0, "NoAns_f1": None})
    assert re.search(r"^\| with another document's memory +\| +not measured \| +not measured \|$", text, re.MULTILINE)
    assert "unanswerable" not in text


def test_the_reported_f1_is_read_back():
    assert reported_f1(scored()) == ("squad", METRICS["f1"])
    assert reported_f1("# by hand\n") == (None, None)
    assert reported_f1("---\nlicense: mit\nmodel-index: 3\n---\n") == (None, None)


@pytest.mark.parametrize(
    ("memory_type", "kind", "comment"),
    [
        ("gmm", "WordPiece", "  # WordPiece of 3 tokens, with the 16 memory tokens"),
        ("none", "Unigram", "  # Unigram of 3 tokens"),
        ("none", None, ""),
    ],
)
def test_the_tokenizer_is_called_what_it_is(tmp_path, memory_type, kind, comment):
    if kind is not None:
        model = {"type": kind, "vocab": {"a": 0, "b": 1, "c": 2}}
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    text = model_card("me/model", config_of(memory_type), name="x", folder=tmp_path)
    assert f'tokenizer = load_tokenizer("me/model"){comment}\n' in text
