"""Both sides of a benchmark do the same work: the questions, tokens, steps and answers of each are counted."""

from collections import Counter

import datasets
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks import chunking, encoder, evaluation, experts, run_qa, timing, training
from benchmarks.gpu.setup import Setup, flat, training_step
from benchmarks.gpu.training import _batches
from benchmarks.inputs import Scale, Texts
from gmmxlnet.data.documents import Documents
from gmmxlnet.evaluation.predictions import Predictions
from gmmxlnet.models import GMMXLNetForQA

LONGEST_QUESTION = 12  # tokens of ours in miniature; the peer cuts none
SCALE = Scale.of(quick=True, repeats=1)


@pytest.fixture(scope="module")
def texts():
    return Texts(quick=True)


@pytest.fixture(scope="module")
def expected_tokens(texts):
    """A function from ids of questions to what a side has to read: (segments, tokens in them, padding aside)."""
    asked = {q.id: (passage.text, q.text) for name in ("train", "dev") for passage in texts.passages(name)
             for q in passage.questions}  # fmt: skip

    def expected(ids, longest_question):
        segments = tokens = 0
        for one in ids:
            n, q = (len(texts.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in asked[one])
            ending = min(q, longest_question) + 3
            window = SCALE.max_length - ending
            S = 1 + -(-max(n - window, 0) // (window - SCALE.stride))
            segments, tokens = segments + S, tokens + n + (S - 1) * SCALE.stride + S * ending
        return segments, tokens

    return expected


@pytest.fixture
def sides(monkeypatch):
    """Of each model that a benchmark makes by `pair`: its batches, and how often its weights were changed."""
    seen, steps, owners = {"theirs": [], "ours": []}, Counter(), {}

    def watch(module):
        make = module.pair

        def pair(*args, **kwargs):
            models = make(*args, **kwargs)
            for name, model in zip(seen, models, strict=True):
                owners[id(next(model.parameters()))] = name
                model.register_forward_pre_hook(
                    lambda _, args, batch, name=name: seen[name].append(batch), with_kwargs=True
                )
            return models

        monkeypatch.setattr(module, "pair", pair)
        return seen, steps

    def count(optimizer, args, kwargs):
        steps[owners.get(id(optimizer.param_groups[0]["params"][0]))] += 1

    handle = register_optimizer_step_post_hook(count)
    yield watch
    handle.remove()


def read_by(batches):
    """(segments, tokens) of these batches, padding aside."""
    return tuple(
        sum(int(mask.sum()) for mask in masks)
        for masks in ([b["attention_mask"].any(-1) for b in batches], [b["attention_mask"] for b in batches])
    )


def recorded(monkeypatch, owner, name):
    """The arguments and results of each call from now on."""
    calls, function = [], getattr(owner, name)

    def call(*args, **kwargs):
        calls.append((args, function(*args, **kwargs)))
        return calls[-1][1]

    monkeypatch.setattr(owner, name, call)
    return calls


def test_training_takes_a_step_a_batch_on_the_same_questions(texts, sides, expected_tokens, monkeypatch):
    seen, steps = sides(training)
    prepared = recorded(monkeypatch, run_qa, "prepare")
    opened = recorded(monkeypatch, training, "training_documents")
    assert len(training.training_figures(SCALE, texts)) == 2
    (_, documents), _ = opened
    ids = [documents.question_id(int(i)) for batch in seen["ours"] for i in batch["document_index"]]
    assert len(ids) == 2 * 2 * 2 * SCALE.batch_size  # two figures, a warm-up and a repeat of two batches
    assert sorted(ids) == sorted(one for args, _ in prepared for one in args[0]["id"])
    assert read_by(seen["ours"]) == expected_tokens(ids, LONGEST_QUESTION)
    assert read_by(seen["theirs"]) == expected_tokens(ids, SCALE.max_length)
    assert steps["ours"] == len(seen["ours"])
    assert steps["theirs"] == len(seen["theirs"])
    sizes = [len(features) for _, features in prepared]
    assert len(seen["theirs"]) == sum(-(-size // SCALE.batch_size) for size in sizes)


def test_the_careful_peer_pads_to_the_longest_of_a_batch_and_keeps_its_labels(texts):
    questions = run_qa.read_questions(texts.dev)
    features = run_qa.prepare(
        questions, texts.tokenizer, make=run_qa.training_features, max_length=SCALE.max_length, stride=SCALE.stride
    )
    batches = list(training._their_sorted_batches(features, SCALE))
    plain = list(training._their_batches(features, SCALE))
    lengths = [batch["attention_mask"].sum(1) for batch in batches]
    assert torch.equal(torch.cat(lengths), torch.cat(lengths).sort(descending=True).values)
    assert all(batch["input_ids"].shape[1] == int(each.max()) for batch, each in zip(batches, lengths, strict=True))

    def labeled(batches):
        """The tokens of each feature, and those at its start and end."""
        return sorted(
            (ids[mask.bool()].tolist(), int(ids[start]), int(ids[end]))
            for batch in batches
            for ids, mask, start, end in zip(
                *(batch[name] for name in ("input_ids", "attention_mask", "start_positions", "end_positions")),
                strict=True,
            )
        )

    assert labeled(batches) == labeled(plain)


def test_evaluation_answers_the_same_questions_once(texts, sides, expected_tokens, monkeypatch):
    seen, _ = sides(evaluation)
    made = evaluation.pair

    def same_weights(config):
        theirs, _ = made(config)
        ours = GMMXLNetForQA(base_model=theirs, use_gmm_memory=False)
        ours.register_forward_pre_hook(lambda _, args, batch: seen["ours"].append(batch), with_kwargs=True)
        return theirs, ours

    monkeypatch.setattr(evaluation, "pair", same_weights)
    theirs, ours = recorded(monkeypatch, run_qa, "answers"), recorded(monkeypatch, Predictions, "answers")
    evaluation.evaluation_figures(SCALE, texts)
    assert len(theirs) == len(ours) == 2  # a warm-up and a repeat
    found, own = theirs[0][1], ours[0][1]
    assert set(found) == set(own)
    assert len(found) == 6
    assert read_by(seen["ours"]) == tuple(2 * x for x in expected_tokens(found, LONGEST_QUESTION))
    assert read_by(seen["theirs"]) == tuple(2 * x for x in expected_tokens(found, SCALE.max_length))
    short = [one for one in found if expected_tokens([one], LONGEST_QUESTION) == expected_tokens([one], 99)]
    assert len(short) >= 2
    assert {one: found[one] for one in short} == {one: own[one] for one in short}
    assert any(found[one] for one in short)


def test_the_peers_answer_is_empty_only_where_no_answer_scores_best(texts):
    questions = run_qa.read_questions(texts.dev).select(range(4))
    features = run_qa.prepare(
        questions, texts.tokenizer, make=run_qa.evaluation_features, max_length=SCALE.max_length, stride=SCALE.stride
    )
    start = torch.randn(len(features), SCALE.max_length, generator=torch.Generator().manual_seed(0)).numpy()
    start[:, -1] = -9
    answered = run_qa.answers(questions, features, start, start)
    assert all(answered.values())
    start[:, -1] = 9
    assert not any(run_qa.answers(questions, features, start, start).values())


def test_chunking_writes_all_of_dev(texts, expected_tokens, tmp_path, monkeypatch):
    ids = [question.id for passage in texts.passages("dev") for question in passage.questions]
    chunking._peer(SCALE, texts, tmp_path)
    masks = datasets.Dataset.from_file(str(tmp_path / "features.arrow"))["attention_mask"]
    assert (len(masks), sum(map(sum, masks))) == expected_tokens(ids, SCALE.max_length)
    built = recorded(monkeypatch, chunking, "build_split")
    for context in ("paragraph", "article"):
        chunking._ours(SCALE, texts, tmp_path / context, context, LONGEST_QUESTION)
        split = built[-1][1]
        assert sorted(split.texts.question_ids) == sorted(ids)
        assert any((tmp_path / context).iterdir())
    documents = Documents(built[0][1])
    assert documents.num_segments().sum() == expected_tokens(ids, LONGEST_QUESTION)[0]


def test_the_encoders_read_the_same_tokens_as_often(monkeypatch):
    shapes = {"theirs": [], "ours": []}
    make = encoder.pair

    def pair(config):
        theirs, ours = make(config)
        theirs.transformer.register_forward_pre_hook(
            lambda _, args, batch: shapes["theirs"].append(tuple(batch["input_ids"].shape)), with_kwargs=True
        )
        ours.encoder.register_forward_pre_hook(lambda _, args: shapes["ours"].append(tuple(args[0].shape[:2])))
        return theirs, ours

    monkeypatch.setattr(encoder, "pair", pair)
    encoder.encoder_figures(SCALE)
    assert shapes["theirs"] == shapes["ours"] == [(2, SCALE.max_length)] * (1 + SCALE.repeats + 1)


def test_runs_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in ("peer", "ours")}
    taken = timing.in_turns(runs, repeats=2, warm_up=1)
    assert order == ["peer", "ours"] * 3
    assert {name: len(spans) for name, spans in taken.items()} == {"peer": 2, "ours": 2}


@pytest.mark.parametrize("which", ["experts", "gpu"])
def test_a_step_is_one_reading_and_one_change_of_the_weights(which, monkeypatch):
    models, calls, steps = [], [], []
    make = GMMXLNetForQA.__init__
    monkeypatch.setattr(
        GMMXLNetForQA, "__init__", lambda self, *args, **more: (make(self, *args, **more), models.append(self))[0]
    )
    if which == "experts":
        size, shape, slots = experts.MINIATURE
        step = experts._stepper("gmm", size, shape, slots=slots, k=2)
    else:
        setup = Setup.of(quick=True)
        models.append(setup.ours())
        step = training_step(setup, models[-1], [setup.batch(B=2, S=1, memory_tokens=False)])
    models[-1].register_forward_pre_hook(lambda *_: calls.append(1))
    before = {name: tensor.clone() for name, tensor in models[-1].state_dict().items()}
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    step()
    step()
    handle.remove()
    assert len(calls) == len(steps) == 2
    assert any(not torch.equal(tensor, before[name]) for name, tensor in models[-1].state_dict().items())


def test_documents_of_realistic_lengths_are_padded_to_the_longest_or_all_alike():
    setup = Setup.of(quick=True)
    tight, wide = list(_batches(setup)), list(_batches(setup, width=setup.length))
    lengths = [[int(mask.sum()) for mask in batch["attention_mask"]] for batch in tight]
    assert lengths == [[int(mask.sum()) for mask in batch["attention_mask"]] for batch in wide]
    assert len({one for batch in lengths for one in batch}) > 1
    for batch, own in zip(tight, lengths, strict=True):
        L = batch["input_ids"].shape[-1]
        assert max(own) <= L < max(own) + 8
        assert L % 8 == 0
    assert {batch["input_ids"].shape[-1] for batch in wide} == {setup.length}


def test_their_model_and_ours_find_the_same_answers_in_a_padded_batch():
    """Answers are tokens of the context, at the same places on both sides; the losses of equal weights are equal."""
    setup = Setup.of(quick=True)
    theirs = setup.theirs().eval()
    ours = GMMXLNetForQA(base_model=theirs, use_gmm_memory=False).eval()
    (batch, *_) = _batches(setup, width=setup.length)
    for name in ("start_positions", "end_positions"):
        at = batch[name][..., None]
        assert (batch["token_type_ids"].gather(-1, at) == 0).all()
        assert batch["attention_mask"].gather(-1, at).all()
    with torch.inference_mode():
        peer, own = theirs(**flat(batch)), ours(**batch)
    real = batch["attention_mask"][:, 0].bool()
    torch.testing.assert_close(peer.start_logits[real], own.start_logits[:, 0][real], rtol=1e-4, atol=1e-5)
