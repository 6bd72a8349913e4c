"""`QAEvaluator` on real documents and small real models: every segment is read, ablations take the memory away."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.documents import Documents
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.errors import ConfigError
from gmmxlnet.evaluation.evaluator import (
    MODEL_INPUTS,
    Ablation,
    QAEvaluator,
    context_mask,
    rows_with_other_contexts,
    with_donor,
)
from gmmxlnet.evaluation.metrics import assemble_metrics
from gmmxlnet.evaluation.threshold import ThresholdChoice, choose_threshold
from gmmxlnet.models import GMMXLNetForQA
from tests.conftest import article, question


@pytest.fixture(scope="module")
def evaluator(make_model, sample_tokenizer):
    return QAEvaluator(make_model(), sample_tokenizer, n_best_size=5, max_answer_length=6, batch_size=7)


@pytest.fixture(scope="module")
def normal(evaluator, dev_documents):
    return evaluator.predict(dev_documents)


@pytest.fixture(scope="module")
def ablated(evaluator, normal):
    return evaluator.ablate(normal)


def same_logits(left, right, rows=slice(None)):
    return np.allclose(left.start_logit[rows], right.start_logit[rows], atol=1e-5)


def test_context_mask_covers_exactly_the_segments_bounds(dev_documents):
    """The tokens under the mask, read off segment by segment, are the context's tokens of that segment."""
    for memory_tokens, slots in ((True, dev_documents.layout.memory_num_tokens), (False, 0)):
        collate = DocumentCollator(layout=dev_documents.layout, memory_tokens=memory_tokens)
        documents = [dev_documents[i] for i in (0, len(dev_documents) - 1, 5)]
        batch = collate(documents)
        mask_BSL = context_mask(batch, slots)
        for row, document in enumerate(documents):
            for s, (first, end) in enumerate(document.segments):
                shown = batch["input_ids"][row, s][mask_BSL[row, s]]
                assert shown.tolist() == document.context_tokens[first:end].tolist()
            assert not mask_BSL[row, len(document.segments) :].any()


def test_best_span_is_the_models_best_over_all_segments(evaluator, normal, dev_documents):
    """Against one document at a time, read without batch mates, and enumerated in plain Python."""
    collate = DocumentCollator(layout=dev_documents.layout, memory_tokens=True)
    for i in (0, 7, len(dev_documents) - 1):
        batch = collate([dev_documents[i]])
        with torch.no_grad():
            output = evaluator.model(**batch)
        best = null = None
        for s, (first, end) in enumerate(dev_documents[i].segments):
            start, stop = output.start_logits[0, s].tolist(), output.end_logits[0, s].tolist()
            left = batch["attention_mask"][0, s].tolist().index(1)
            for p in range(left, left + end - first):
                for q in range(p, min(p + 6, left + end - first)):
                    span = (start[p] + stop[q], first + p - left, first + q - left)
                    best = span if best is None or span > best else best
            null = min(start[-1] + stop[-1], np.inf if null is None else null)
        char_start, char_end = dev_documents.token_char_span(i, best[1], best[2])
        assert normal.best_texts[i] == dev_documents.context_text(i)[char_start:char_end]
        assert normal.null_odds[i] == pytest.approx(null - best[0], abs=1e-4)


def test_progress_shows_exact_match_at_threshold_0(evaluator, normal, caplog, monkeypatch):
    monkeypatch.setattr("gmmxlnet.utils.progress.SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level("INFO", logger="gmmxlnet")
    watched = QAEvaluator(evaluator.model, evaluator.tokenizer, 5, 6, batch_size=7, show_progress=True)
    watched.predict(normal.documents)
    metrics = assemble_metrics(normal, ThresholdChoice(0.0), {})
    assert f"EM {metrics['exact_match']:.4g}, " in caplog.messages[-1]
    assert len(caplog.messages) == 5  # 34 documents, 7 at a time


def test_predictions_do_not_depend_on_the_batch_size(evaluator, normal, dev_documents):
    alone = QAEvaluator(evaluator.model, evaluator.tokenizer, n_best_size=5, max_answer_length=6, batch_size=1)
    again = alone.predict(dev_documents)
    assert same_logits(normal, again)
    assert normal.best_texts == again.best_texts


def test_scoring_in_bfloat16_gives_the_same_bits_twice_and_nearly_those_of_float32(
    make_model, sample_tokenizer, normal, dev_documents
):
    runs = [
        QAEvaluator(
            make_model(),
            sample_tokenizer,
            n_best_size=5,
            max_answer_length=6,
            batch_size=7,
            autocast_dtype=torch.bfloat16,
        ).predict(dev_documents)
        for _ in range(2)
    ]
    assert runs[0].n_best_by_id() == runs[1].n_best_by_id()
    assert not np.array_equal(runs[0].null_odds, normal.null_odds)
    np.testing.assert_allclose(runs[0].null_odds, normal.null_odds, atol=0.1)


def test_reading_is_without_dropout_and_leaves_the_model_as_it_was(
    make_model, sample_tokenizer, dev_documents, tmp_path
):
    made = make_model()
    made.config.dropout = 0.5
    made.save_pretrained(tmp_path)
    model = GMMXLNetForQA.from_pretrained(tmp_path)
    evaluator = QAEvaluator(model, sample_tokenizer, n_best_size=5)
    still = evaluator.predict(dev_documents)
    model.train()
    batch = DocumentCollator(layout=dev_documents.layout, memory_tokens=True)([dev_documents[0]])
    inputs = {name: batch[name] for name in MODEL_INPUTS}
    with torch.no_grad():
        assert not torch.equal(model(**inputs).start_logits, model(**inputs).start_logits)  # dropout is at work
    assert same_logits(still, evaluator.predict(dev_documents))
    assert model.training
    zeroed = evaluator.ablate(still)["zeroed"]
    assert same_logits(zeroed, evaluator.ablate(still)["zeroed"])


def test_official_files(normal, dev_documents):
    threshold = float(np.median(normal.null_odds))
    answers, odds, n_best = normal.answers(threshold), normal.odds_by_id(), normal.n_best_by_id()
    assert (
        list(answers) == list(odds) == list(n_best) == [dev_documents.question_id(i) for i in range(len(dev_documents))]
    )
    json.dumps([answers, odds, n_best], allow_nan=False)
    for i, (question_id, entries) in enumerate(n_best.items()):
        assert (answers[question_id] == "") == (odds[question_id] > threshold)
        scores = [entry["start_logit"] + entry["end_logit"] for entry in entries]
        assert scores == sorted(scores, reverse=True)
        assert sum(entry["probability"] for entry in entries) == pytest.approx(1)
        spans = [entry for entry in entries if entry["char_start"] is not None]
        assert len(spans) == 5
        assert len(entries) == 6
        for entry in spans:
            assert dev_documents.context_text(i)[entry["char_start"] : entry["char_end"]] == entry["text"] != ""
            assert 0 <= entry["segment"] < dev_documents.num_segments()[i]
        assert spans[0]["text"] == normal.best_texts[i]


def test_ablations_change_what_travels_between_segments_and_nothing_else(normal, ablated, dev_documents):
    several = dev_documents.num_segments() > 1
    assert several.any()
    assert not several.all()
    for name in ("shuffled", "reset"):
        assert same_logits(normal, ablated[name], ~several)
        assert not same_logits(normal, ablated[name], several)
    assert not same_logits(normal, ablated["zeroed"])
    assert not same_logits(ablated["shuffled"], ablated["reset"])


def test_each_ablation_stands_under_its_own_name(evaluator, normal, ablated, dev_documents):
    """Against the model, asked by that name; what comes from other documents is asked for as such and differs."""
    rows = np.flatnonzero(dev_documents.num_segments() > 1)[:3]
    batch = DocumentCollator(layout=dev_documents.layout, memory_tokens=True)([dev_documents[int(i)] for i in rows])
    inputs = {name: batch[name] for name in MODEL_INPUTS}

    def null_scores_of(**how):
        with torch.inference_mode():
            output = evaluator.model(**inputs, **how)
        scores = (output.start_logits + output.end_logits)[..., -1].masked_fill(~batch["attention_mask"].any(-1), 1e9)
        return scores.amin(1).numpy()

    rerouted = evaluator.ablate_routing(normal)
    direct = {
        **{name: (ablated[name], null_scores_of(memory_ablation=name)) for name in ("zeroed", "reset")},
        **{
            f"routing {name}": (predictions, null_scores_of(routing_ablation=name))
            for name, predictions in rerouted.items()
            if name != "shuffled"
        },
    }
    assert len(direct) == 2 + 5
    shuffled = {"shuffled": (ablated["shuffled"], None), "routing shuffled": (rerouted["shuffled"], None)}
    for name, (predictions, _) in {**direct, **shuffled}.items():
        found = (predictions.null_start_logit + predictions.null_end_logit)[rows]
        same = [other for other, (_, expected) in direct.items() if np.allclose(found, expected, atol=1e-5)]
        assert same == ([name] if name in direct else [])


def test_single_segments_really_are_untouched_by_shuffling_and_reset(evaluator, normal, dev_documents):
    """They are copied, not read again; reading them again gives the same."""
    rows = np.flatnonzero(dev_documents.num_segments() == 1)
    for name in ("shuffled", "reset"):
        assert same_logits(normal, evaluator._read(normal, rows, Ablation(name, memory_ablation=name)))


def test_each_routing_is_read_and_reported_by_its_name(evaluator, normal, dev_documents):
    rerouted = evaluator.ablate_routing(normal)
    table = assemble_metrics(normal, choose_threshold(normal), {}, rerouted)["routing_ablation"]
    names = ["learned", "uniform", "shuffled", "hardened", "without_expert_0", "without_expert_1", "without_expert_2"]
    assert list(table) == names
    assert all({"exact_match", "f1", "by_question_type"} <= set(row) for row in table.values())
    several = dev_documents.num_segments() > 1
    read = [normal, *rerouted.values()]
    for i, one in enumerate(read):
        assert same_logits(one, normal, ~several)  # a single segment is as it was
        assert not any(same_logits(one, other) for other in read[:i])  # each is a reading of its own


def test_only_a_router_can_be_replaced(make_model, sample_tokenizer, dev_documents):
    evaluator = QAEvaluator(make_model("token"), sample_tokenizer)
    normal = evaluator.predict(dev_documents)
    assert evaluator.ablate_routing(normal) == {}
    assert "routing_ablation" not in assemble_metrics(normal, choose_threshold(normal), {}, {})


def test_model_without_memory_is_not_read_again(make_model, sample_tokenizer, dev_documents):
    evaluator = QAEvaluator(make_model("none"), sample_tokenizer)
    normal = evaluator.predict(dev_documents)
    metrics = assemble_metrics(normal, choose_threshold(normal), evaluator.ablate(normal))
    table = metrics["memory_ablation"]
    assert {name: row["f1"] for name, row in table.items()} == dict.fromkeys(table, metrics["f1"])
    assert "no memory" in metrics["memory_ablation_note"]


@pytest.mark.parametrize(
    ("contexts", "is_permutation"),
    [
        ([0, 1], True),
        ([0, 0, 1, 1], True),
        ([3, 1, 2, 1, 3, 1], True),
        ([0, 1, 2, 3, 4], True),
        ([5, 5, 5, 1], False),
        ([2, 2, 0, 2, 1], False),
    ],
)
def test_every_row_gets_another_contexts_row(contexts, is_permutation):
    contexts = np.array(contexts)
    donors = rows_with_other_contexts(contexts)
    assert (contexts[donors] != contexts).all()
    assert (len(set(donors.tolist())) == len(donors)) == is_permutation


def test_batch_of_one_context_gets_the_nearest_donor():
    order, contexts = np.array([4, 2, 0, 1, 3, 5]), np.array([7, 7, 8, 7, 8, 9])
    assert with_donor(np.array([0, 1]), order, contexts).tolist() == [0, 1, 2]
    assert with_donor(np.array([1, 3]), order, contexts).tolist() == [1, 3, 2]
    assert with_donor(np.array([2, 0]), order, contexts).tolist() == [2, 0]


def test_one_context_alone_cannot_be_shuffled(evaluator, one_context_chunks):
    documents = Documents.open(one_context_chunks, "dev")
    normal = evaluator.predict(documents)
    ablated = evaluator.ablate(normal)
    assert ablated["shuffled"] is None
    metrics = assemble_metrics(normal, choose_threshold(normal), ablated)
    assert metrics["memory_ablation"]["shuffled"]["f1"] is None
    assert metrics["memory_ablation"]["reset"]["f1"] is not None
    assert "one context" in metrics["memory_ablation_note"]
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize("n_best", [20, 1_000])
def test_a_dev_set_of_one_short_document_is_scored(make_model, make_chunks, n_best):
    """Fewer spans than are asked for: the host of a sentence of four words has ten."""
    context = "The host is John"
    one = [article("t", context, [question("a", "Who is the host?", context, "John")])]
    chunks = make_chunks(one, one)
    documents = Documents.open(chunks, "dev")
    tokenizer = load_tokenizer(str(chunks / "tokenizer"))
    model = make_model("none")
    predictions = QAEvaluator(model, tokenizer, n_best_size=n_best).predict(documents)
    entries = predictions.n_best_by_id()["a"]
    words = context.split()
    spans = {" ".join(words[i:j]) for i in range(4) for j in range(i + 1, 5)}
    assert sorted(entry["text"] for entry in entries) == sorted(["", *spans])
    json.dumps(assemble_metrics(predictions, choose_threshold(predictions), {}), allow_nan=False)


def test_evaluate_takes_documents_or_a_dataset_of_them(evaluator, dev_documents):
    results = evaluator.evaluate(dev_documents)
    assert {"exact_match", "f1", "total"} <= set(results)
    assert "memory_ablation" not in results
    assert evaluator.evaluate(SimpleNamespace(documents=dev_documents)) == results
    assert not evaluator.model.training


def test_documents_of_another_model_are_refused(make_model, sample_tokenizer, dev_documents):
    model = make_model()
    model.config.vocab_size += 1
    with pytest.raises(ConfigError, match="the documents were made for"):
        QAEvaluator(model, sample_tokenizer).predict(dev_documents)
