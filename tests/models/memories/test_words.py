"""`memory_type: words`: what stood beside the same word before, by hand, and what a document's words can reach."""

import pytest
import torch

from gmmxlnet.errors import ConfigError
from gmmxlnet.models import GMMXLNetConfig
from gmmxlnet.models.memories.words import WordReader, shifted
from gmmxlnet.models.memory_targets import NEIGHBOR_OFFSETS

EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 0, "atol": 1e-10}


@pytest.fixture
def model(tiny_model):
    return tiny_model("words", mem_len=60)


def read(model, batch, **how):
    with torch.no_grad():
        return model(**batch, **how)


def last_logits(model, batch_of, segments):
    """Of the last segment, without padding."""
    batch = batch_of([segments], slots=0)
    tokens = batch["attention_mask"][0, -1].bool()
    return read(model, batch).start_logits[0, -1][tokens]


def test_a_reading_is_the_gated_sum_of_the_neighbors_of_all_earlier_occurrences():
    torch.manual_seed(0)
    d = 6
    reader = WordReader(GMMXLNetConfig(d_model=d, n_head=2, memory_type="words", mem_len=9)).double()
    reader.initialize(GMMXLNetConfig(d_model=d, n_head=2, memory_type="words", mem_len=9))
    with torch.no_grad():
        for parameter in reader.parameters():
            parameter.add_(torch.randn_like(parameter))
    embedding_nLd, cached_nMd = torch.randn(2, 3, d).double(), torch.randn(2, 5, d).double()
    same_nLM = torch.zeros(2, 3, 5, dtype=torch.bool)
    same_nLM[0, 1, 1] = same_nLM[1, 2, 0] = same_nLM[1, 2, 4] = True
    got = reader(embedding_nLd, same_nLM, cached_nMd)
    matrices = reader.projection.weight.split(d, dim=1)
    for n, token, places in ((0, 0, []), (0, 1, [1]), (1, 2, [0, 4])):
        expected = torch.zeros(d, dtype=torch.float64)
        for offset, matrix in zip(NEIGHBOR_OFFSETS, matrices, strict=True):
            beside = [cached_nMd[n, place + offset] for place in places if 0 <= place + offset < 5]
            expected += matrix @ sum(beside, torch.zeros(d).double()) / max(len(places), 1)
        gate = torch.sigmoid(reader.gate.weight[0] @ embedding_nLd[n, token] + reader.gate.bias)
        torch.testing.assert_close(got[n, token], gate * expected, **CLOSE)


@pytest.mark.parametrize("offset", NEIGHBOR_OFFSETS)
@pytest.mark.parametrize("M", [0, 2, 7])
def test_shifted_brings_what_stands_so_many_places_after(offset, M):
    x_nMd = torch.randn(2, M, 3)
    expected = torch.zeros_like(x_nMd)
    for place in range(M):
        if 0 <= place + offset < M:
            expected[:, place] = x_nMd[:, place + offset]
    torch.testing.assert_close(shifted(x_nMd, offset), expected, **EXACT)


def test_what_stands_beside_a_word_of_a_later_segment_is_read_there(model, batch_of):
    later = ([30, 20, 31], [40])  # the word 20 comes again
    one, two = (last_logits(model, batch_of, [([20, code, 22], [40]), later]) for code in (50, 51))
    assert (one - two).abs().max() > 1e-4


@pytest.mark.parametrize(
    "changed", [[20, 21, 22, 23, 50], [24, 50, 25]], ids=["four places away", "beside other words"]
)
def test_what_stands_elsewhere_is_not(model, batch_of, changed):
    later = ([30, 20, 31], [40])
    plain = [word if word != 50 else 51 for word in changed]
    one, two = (last_logits(model, batch_of, [(context, [40]), later]) for context in (changed, plain))
    torch.testing.assert_close(one, two, **EXACT)


def test_a_question_looks_up_but_is_not_kept(model, batch_of):
    """The question of the second segment has the word 20; that of the first is told apart from the document's words."""
    asking = ([30, 31, 32], [20])
    one, two = (last_logits(model, batch_of, [([20, code], [20]), asking]) for code in (50, 51))
    assert (one - two).abs().max() > 1e-4
    unsaid = [last_logits(model, batch_of, [([33, 34], question), asking]) for question in ([20, 50], [20, 51])]
    torch.testing.assert_close(*unsaid, **EXACT)


def test_words_beyond_mem_len_are_forgotten(tiny_model, batch_of):
    segments = [[([20, code], [40]), ([30, 31, 32], [40]), ([33, 20], [40])] for code in (50, 51)]
    for mem_len, kept in ((60, True), (7, False)):  # a segment of three words and a question of one has seven tokens
        model = tiny_model("words", mem_len=mem_len)
        one, two = (last_logits(model, batch_of, each) for each in segments)
        assert torch.equal(one, two) != kept


def test_truth_1_the_words_change_the_logits_of_their_document_alone(model, documents, batch_of):
    batch = batch_of(documents, slots=0)
    first = {name: batch[name][:, 0] for name in ("input_ids", "attention_mask", "token_type_ids")}
    state = read(model, first).memory_state
    other = type(state)(*(x.clone() for x in vars(state).values()))
    content = state.readable_BM[2].bool()
    other.words_BM[2, content] = other.words_BM[2, content].roll(1)
    one, two = (read(model, first, memory_state=x).start_logits for x in (state, other))
    change_B = (one - two).abs().amax(1)
    assert change_B[2] > 1e-4
    assert (change_B[[0, 1, 3]] == 0).all()


def test_a_cache_needs_a_length():
    with pytest.raises(ConfigError, match="mem_len must be an integer >= 1 when memory_type is words, not None"):
        GMMXLNetConfig(memory_type="words", mem_len=None)
