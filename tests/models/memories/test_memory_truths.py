"""The eight truths of the memory (`docs/memory.md`), each with a test that fails when it is broken.

Truths 7 and 8 belong to data and evaluation: what is not here is in `tests/data/test_collator.py` (labels decode to
gold) and `tests/evaluation/` (every segment is seen, the report's table of ablations).
"""

import copy

import pytest
import torch
from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple

from gmmxlnet.data.documents import Documents
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.evaluation.evaluator import QAEvaluator
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA, MemoryState
from gmmxlnet.models.xlnet_weights import xlnet_tensors

MODES = ("write-based", "read-based")
VARIANTS = [("token", 1, "write-based"), *(("gmm", k, mode) for k in (2, 4, 8) for mode in MODES)]
MEMORY_MODULES = ("expert_mixture", "routing_network", "expert_updater", "memory_reader")
WORDS = 60  # of the vocabulary without memory tokens, as in conftest.py
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(map(str, variant)))
def variant(request):
    memory_type, k, mode = request.param
    return {"memory_type": memory_type, "k": k, "routing_mode": mode}


@pytest.fixture
def model(variant, tiny_model):
    return tiny_model(**variant)


def read(model, batch, **how):
    with torch.no_grad():
        return model(**batch, **how)


def one_at_a_time(model, batch):
    """The documents read by one call a segment, the state passed on: logits a segment, and states before and after."""
    state, logits, states = None, [], [model.memory_mixture(len(batch["input_ids"]))]
    for s in range(batch["input_ids"].shape[1]):
        segment = {name: batch[name][:, s] for name in ("input_ids", "attention_mask", "token_type_ids")}
        output = read(model, segment, memory_state=state)
        state = output.memory_state
        logits.append(output.start_logits)
        states.append(state)
    return torch.stack(logits, dim=1), states


# 1. Changing the incoming memory changes the logits. Changing it for one document changes no other document.


def test_truth_1_incoming_memory_changes_the_logits_of_its_document_alone(model, documents, batch_of):
    batch = batch_of(documents)
    start = model.memory_mixture(4)
    other = MemoryState(start.experts_Bkmd.clone(), start.read_Bmd.clone())
    other.read_Bmd[2] += torch.randn_like(other.read_Bmd[2])
    one, two = read(model, batch, memory_state=start), read(model, batch, memory_state=other)
    change_B = (one.start_logits - two.start_logits).abs().amax((1, 2))
    assert change_B[2] > 1e-2
    assert (change_B[[0, 1, 3]] == 0).all()
    other.experts_Bkmd[3] += torch.randn_like(other.experts_Bkmd[3])
    three = read(model, batch, memory_state=other)
    change_BS = (two.start_logits - three.start_logits).abs().amax(2)
    assert (change_BS[3, 1:] > 1e-4).all()  # experts are read after the first segment
    assert change_BS[3, 0] == 0
    assert (change_BS[:3] == 0).all()


def test_truth_1_what_an_earlier_segment_says_changes_a_later_ones_logits(model, documents, batch_of):
    before = read(model, batch_of(documents)).start_logits
    context, question = documents[3][0]
    changed = [*documents[:3], [([context[0] - 1, *context[1:]], question), *documents[3][1:]]]
    change_BS = (before - read(model, batch_of(changed)).start_logits).abs().amax(2)
    assert (change_BS[3] > 1e-6).all()
    assert (change_BS[:3] == 0).all()


# 2. With a loss on segment t+1, every parameter of memory, router, gates, candidates and reader gets a non-zero
#    gradient; with bptt_segments = 1 exactly none flows from t+1 to t.


def backward_from(model, batch, segment):
    """Gradients by parameter name of a loss on the logits of one segment alone."""
    model.zero_grad(set_to_none=True)
    output = model(**batch)
    (output.start_logits[:, segment].square().sum() + output.end_logits[:, segment].sin().sum()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_truth_2_every_memory_parameter_learns_from_the_next_segment(variant, tiny_model, document, batch_of, pooling):
    model = tiny_model(**variant, pooling_method=pooling)
    gradients = backward_from(model, batch_of([document(0, 2), document(1, 2)]), segment=1)
    memory = {name: grad for name, grad in gradients.items() if name.split(".")[0] in MEMORY_MODULES}
    k = variant["k"]
    parts = (
        [f"expert_mixture.expert_{j}" for j in range(k)]
        + [f"expert_updater.{kind}_networks.{j}." for kind in ("gate", "update") for j in range(k)]
        + ["memory_reader.projection.", "memory_reader.norm"]
        + (["routing_network.W_gate."] if variant["memory_type"] == "gmm" else [])
        + (["memory_reader.read_gating_network.W_gate."] if variant["routing_mode"] == "read-based" else [])
        + (["routing_network.pooling.query."] if variant["memory_type"] == "gmm" and pooling == "attention" else [])
    )
    assert all(any(name.startswith(part) for name in memory) for part in parts)
    assert {name for name, grad in memory.items() if grad is None or not grad.any()} == set()
    for name, grad in memory.items():
        if "W_gate" in name:  # every expert's row
            assert grad.reshape(k, -1).any(1).all(), name


def test_truth_2_no_gradient_crosses_where_it_is_cut(variant, tiny_model, batch_of):
    """A word that only segment t holds, and whatever only segment t's write uses."""
    for limit, segment, first in ((None, 3, 0), (1, 1, 1), (1, 3, 3), (2, 3, 2), (2, 2, 2), (2, 1, 0), (3, 2, 0)):
        model = tiny_model(**variant, bptt_segments=limit)
        marked = [([20 + s, *[11] * 4], [12, 13]) for s in range(4)]
        gradients = backward_from(model, batch_of([marked]), segment)
        word_grads = gradients["encoder.word_embedding.weight"][20:24]
        assert word_grads.any(1).tolist() == [first <= s <= segment for s in range(4)], (limit, segment)
        for name, reached in (
            ("expert_updater.gate_networks.0.weight", first < segment),
            ("expert_mixture.expert_0", first == 0),
        ):
            assert (gradients[name] is not None and bool(gradients[name].any())) == reached, (limit, segment, name)


def test_truth_2_cutting_gradients_changes_no_value(variant, tiny_model, documents, batch_of):
    whole, cut = (tiny_model(**variant, bptt_segments=limit) for limit in (None, 1))
    torch.testing.assert_close(
        read(whole, batch_of(documents)).start_logits, read(cut, batch_of(documents)).start_logits, **EXACT
    )


# 3. memory_type none and an XLNetForQuestionAnsweringSimple with the same weights give the same logits.


def test_truth_3_without_memory_it_is_xlnet(documents, batch_of, logits_of):
    torch.manual_seed(0)
    size = {"d_model": 16, "n_head": 4, "n_layer": 2, "d_inner": 24, "initializer_range": 0.4}
    theirs = XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=WORDS, **size)).double().eval()
    ours = GMMXLNetForQA(base_model=theirs, use_gmm_memory=False).double().eval()
    assert set(xlnet_tensors(theirs.state_dict())) == set(ours.state_dict())
    batch = batch_of(documents, slots=0)
    output = read(ours, batch)
    for b, segments in enumerate(documents):
        for s in range(len(segments)):
            alone = batch_of([[segments[s]]], slots=0)
            single = {name: alone[name][:, 0] for name in ("input_ids", "attention_mask", "token_type_ids")}
            expected = read(theirs, single)
            torch.testing.assert_close(
                logits_of(output, batch, b, s),
                torch.cat([expected.start_logits, expected.end_logits]),
                rtol=0,
                atol=1e-10,
            )


# 4. A document's logits don't depend on its batch mates, on the batch size or on the padding.


@pytest.mark.parametrize(
    ("order", "padding"),
    [
        ([0, 1, 2, 3], {}),
        ([3, 0, 2, 1], {}),  # sorted
        ([1, 2, 0, 3], {"length": 40, "num_segments": 7}),
        ([2, 2, 1, 2, 3, 0], {"length": 33}),
        ([3, 1], {"num_segments": 5}),
        ([1, 1, 0], {}),
    ],
    ids=str,
)
def test_truth_4_a_document_is_read_alike_in_any_company(model, documents, batch_of, logits_of, order, padding):
    alone = [batch_of([one]) for one in documents]
    expected = [read(model, batch) for batch in alone]
    batch = batch_of([documents[i] for i in order], **padding)
    output = read(model, batch)
    for b, i in enumerate(order):
        for s in range(len(documents[i])):
            torch.testing.assert_close(logits_of(output, batch, b, s), logits_of(expected[i], alone[i], 0, s), **CLOSE)
        for one, all_ in (
            (expected[i].memory_state.experts_Bkmd, output.memory_state.experts_Bkmd),
            (expected[i].memory_state.read_Bmd, output.memory_state.read_Bmd),
        ):
            torch.testing.assert_close(all_[b], one[0], **CLOSE)
        if model.config.memory_type == "gmm":
            S = len(documents[i])
            torch.testing.assert_close(output.routing_probs[b, :S], expected[i].routing_probs[0], **CLOSE)
            assert not output.routing_probs[b, S:].any()
        assert not output.start_logits[b, len(documents[i]) :].any()
    assert output.start_logits.shape == output.end_logits.shape == batch["input_ids"].shape


def test_truth_4_holds_without_memory(tiny_model, documents, batch_of, logits_of):
    model, batch = tiny_model("none"), batch_of(documents, slots=0, length=30)
    output = read(model, batch)
    for b, one in enumerate(documents):
        alone = batch_of([one], slots=0)
        for s in range(len(one)):
            torch.testing.assert_close(
                logits_of(output, batch, b, s), logits_of(read(model, alone), alone, 0, s), **CLOSE
            )


def test_segments_are_counted_when_nobody_says_how_many(model, documents, batch_of):
    batch = batch_of(documents, num_segments=6)
    counted = {name: tensor for name, tensor in batch.items() if name != "num_segments"}
    torch.testing.assert_close(read(model, counted).start_logits, read(model, batch).start_logits, **EXACT)


# 5. Permuting the experts (with their router rows) changes nothing but the order of routing probabilities.


def permuted(model, permutation, *, routers=True):
    """A copy whose expert j is the model's expert permutation[j]."""
    copied, state = copy.deepcopy(model), model.state_dict()
    own = copied.state_dict()
    with torch.no_grad():
        for new, old in enumerate(permutation):
            own[f"expert_mixture.expert_{new}"].copy_(state[f"expert_mixture.expert_{old}"])
            for kind in ("gate", "update"):
                for part in ("weight", "bias"):
                    name = f"expert_updater.{kind}_networks.{{}}.{part}"
                    own[name.format(new)].copy_(state[name.format(old)])
        for name in own:
            if "W_gate" in name and routers:
                own[name].copy_(state[name][permutation])
    return copied


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [2, 4, 8])
def test_truth_5_experts_have_no_order(tiny_model, documents, batch_of, k, mode):
    model = tiny_model("gmm", k, routing_mode=mode)
    permutation = [*range(1, k), 0]
    batch = batch_of(documents)
    output, other = read(model, batch), read(permuted(model, permutation), batch)
    torch.testing.assert_close(other.start_logits, output.start_logits, **CLOSE)
    torch.testing.assert_close(other.end_logits, output.end_logits, **CLOSE)
    torch.testing.assert_close(other.routing_probs, output.routing_probs[..., permutation], **CLOSE)
    experts = output.memory_state.experts_Bkmd[:, permutation]
    torch.testing.assert_close(other.memory_state.experts_Bkmd, experts, **CLOSE)
    torch.testing.assert_close(other.memory_state.read_Bmd, output.memory_state.read_Bmd, **CLOSE)
    left = read(permuted(model, permutation, routers=False), batch)
    assert not torch.allclose(left.start_logits, output.start_logits, atol=1e-3)


# 6. Resetting memory never touches a parameter. Two documents in a row share nothing.


def test_truth_6_reading_touches_no_parameter(model, documents, batch_of):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = batch_of(documents)
    for ablation in ("normal", "zeroed", "reset", "shuffled"):
        output = read(model, batch, memory_ablation=ablation, memory_permutation=torch.tensor([1, 2, 3, 0]))
        output.memory_state.experts_Bkmd.zero_()  # whoever holds a state may do with it what they like
        output.memory_state.read_Bmd.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_truth_6_two_documents_in_a_row_share_nothing(model, documents, batch_of):
    first, second = batch_of([documents[0]]), batch_of([documents[3]])
    expected = read(model, second)
    read(model, first)
    after = read(model, second)
    torch.testing.assert_close(after.start_logits, expected.start_logits, **EXACT)
    torch.testing.assert_close(after.memory_state.experts_Bkmd, expected.memory_state.experts_Bkmd, **EXACT)


# 7. Evaluation knows nothing of the gold answer.


def asked_with_gold(answer, prefix):
    """Four documents with the same question; ids and towns tell them apart."""
    articles = []
    for n in range(4):
        text = f"The flag of town {n} is red. " + "It rains. " * 20 + "The host is Anna. It is late."
        golds = [{"text": answer, "answer_start": text.index(answer)}] if answer else []
        asked = {"id": f"{prefix}{n}", "question": "Who is the host?", "answers": golds, "is_impossible": not golds}
        articles.append({"title": f"{prefix}{n}", "paragraphs": [{"context": text, "qas": [asked]}]})
    return articles


def test_truth_7_evaluation_knows_no_gold_answer(make_chunks):
    """The same text asked the same with other gold answers, or none, is answered the same."""
    size = {"d_model": 16, "n_head": 2, "n_layer": 1, "d_inner": 16, "memory_type": "token", "num_memory_experts": 1}
    train = asked_with_gold("Anna", "t") + asked_with_gold(None, "u")
    answered = []
    for gold in ("Anna", "red", None):
        chunks = make_chunks(train, asked_with_gold(gold, "d"))
        documents = Documents.open(chunks, "dev")
        assert [documents.gold_answers(n) for n in range(4)] == [[gold] if gold else []] * 4
        assert documents.num_segments().min() > 1
        torch.manual_seed(0)
        model = GMMXLNetForQA(GMMXLNetConfig(**size, vocab_size=documents.layout.vocab_size + 4, memory_slots=2))
        predictions = QAEvaluator(model, load_tokenizer(str(chunks / "tokenizer")), batch_size=4).predict(documents)
        answered.append((predictions.best_texts, predictions.null_odds.tolist()))
    assert answered[0] == answered[1] == answered[2]


# One segment at a time, and 8: what the ablations take away.


def test_state_passed_on_by_hand_equals_whole_documents(model, documents, batch_of):
    batch = batch_of(documents)
    whole = read(model, batch)
    logits, states = one_at_a_time(model, batch)
    torch.testing.assert_close(logits, whole.start_logits, **CLOSE)
    torch.testing.assert_close(states[-1].experts_Bkmd, whole.memory_state.experts_Bkmd, **CLOSE)
    torch.testing.assert_close(states[-1].read_Bmd, whole.memory_state.read_Bmd, **CLOSE)


def test_truth_8_reset_reads_each_segment_from_the_initial_state(model, documents, batch_of, logits_of):
    batch = batch_of(documents)
    output = read(model, batch, memory_ablation="reset")
    for b, one in enumerate(documents):
        for s, segment in enumerate(one):
            alone = batch_of([[segment]])
            torch.testing.assert_close(
                logits_of(output, batch, b, s), logits_of(read(model, alone), alone, 0, 0), **CLOSE
            )


def test_truth_8_zeroed_injects_zeros(model, documents, batch_of):
    """As a model does whose injected vectors have no length."""
    output = read(model, batch_of(documents), memory_ablation="zeroed")
    without_length = copy.deepcopy(model)
    with torch.no_grad():
        without_length.memory_reader.norm.zero_()
    torch.testing.assert_close(output.start_logits, read(without_length, batch_of(documents)).start_logits, **CLOSE)
    assert not torch.allclose(output.start_logits, read(model, batch_of(documents)).start_logits, atol=1e-3)


def test_truth_8_shuffled_injects_what_the_donor_holds_in_a_normal_run(model, documents, batch_of):
    batch = batch_of(documents)
    donor_of = [3, 2, 0, 1]
    output = read(model, batch, memory_ablation="shuffled", memory_permutation=torch.tensor(donor_of))
    _, normal_states = one_at_a_time(model, batch)
    own = model.memory_mixture(4)
    for s in range(4):
        given = MemoryState(own.experts_Bkmd, normal_states[s].read_Bmd[donor_of])
        segment = {name: batch[name][:, s] for name in ("input_ids", "attention_mask", "token_type_ids")}
        step = read(model, segment, memory_state=given)
        torch.testing.assert_close(output.start_logits[:, s], step.start_logits, **CLOSE)
        own = step.memory_state
    plain = read(model, batch).start_logits
    torch.testing.assert_close(output.start_logits[:, 0], plain[:, 0], **CLOSE)  # all start alike
    assert not torch.allclose(output.start_logits[[0, 2, 3], 1], plain[[0, 2, 3], 1], atol=1e-3)
