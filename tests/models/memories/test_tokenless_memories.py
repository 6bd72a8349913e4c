"""Truths of the memories without tokens (`mems`, `words`, `differentiable`): company, traces, states by hand.

Those with memory tokens have theirs in test_memory_truths.py.
"""

import pytest
import torch

EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 0, "atol": 1e-10}
SEGMENT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
VARIANTS = [
    *(("mems", {"mem_len": mem_len}) for mem_len in (5, 14, 60)),  # less than a segment, about one, all
    *(("words", {"mem_len": mem_len}) for mem_len in (5, 14, 60)),
    ("differentiable", {"memory_heads": 1, "pooling_method": "mean", "usage_tracking": True}),
    ("differentiable", {"memory_heads": 4, "pooling_method": "max", "usage_tracking": False}),
    ("differentiable", {"memory_heads": 2, "pooling_method": "attention", "usage_tracking": True}),
]


@pytest.fixture(params=VARIANTS, ids=str)
def model(tiny_model, request):
    kind, settings = request.param
    return tiny_model(kind, **settings)


def read(model, batch, **how):
    with torch.no_grad():
        return model(**batch, **how)


def held(state, row):
    """What a state holds of a document, without padding."""
    if hasattr(state, "slots_BNd"):
        return state.slots_BNd[row]
    if hasattr(state, "words_BM"):
        return state.words_BM[row][state.readable_BM[row].bool()]
    return state.inputs_BMld[row][state.attention_mask_BM[row].bool()]


@pytest.mark.parametrize(
    ("order", "padding"),
    [([3, 0, 2, 1], {}), ([1, 2, 0, 3], {"length": 40, "num_segments": 7}), ([2, 2, 1, 3], {"length": 33})],
    ids=str,
)
def test_truth_4_a_document_is_read_alike_in_any_company(model, documents, batch_of, logits_of, order, padding):
    batch = batch_of([documents[i] for i in order], slots=0, **padding)
    output = read(model, batch)
    for b, i in enumerate(order):
        alone = batch_of([documents[i]], slots=0)
        expected = read(model, alone)
        for s in range(len(documents[i])):
            torch.testing.assert_close(logits_of(output, batch, b, s), logits_of(expected, alone, 0, s), **CLOSE)
        torch.testing.assert_close(held(output.memory_state, b), held(expected.memory_state, 0), **CLOSE)


def test_truth_6_nothing_is_kept_in_the_model(model, documents, batch_of):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = batch_of([documents[0]], slots=0), batch_of([documents[3]], slots=0)
    expected = read(model, second).start_logits
    for ablation in ("normal", "zeroed", "reset", "shuffled"):
        output = read(model, first, memory_ablation=ablation, memory_permutation=torch.tensor([0]))
        for tensor in vars(output.memory_state).values():
            tensor.zero_()
    torch.testing.assert_close(read(model, second).start_logits, expected, **EXACT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_state_passed_on_by_hand_equals_whole_documents(model, documents, batch_of):
    batch, state = batch_of(documents, slots=0), None
    whole = read(model, batch)
    for s in range(4):
        output = read(model, {name: batch[name][:, s] for name in SEGMENT_INPUTS}, memory_state=state)
        state = output.memory_state
        torch.testing.assert_close(output.start_logits, whole.start_logits[:, s], **CLOSE)
    for b in range(len(documents)):
        torch.testing.assert_close(held(state, b), held(whole.memory_state, b), **CLOSE)
