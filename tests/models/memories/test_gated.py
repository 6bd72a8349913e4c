"""Router, update, read and initial memories, against their formulas."""

import math

import pytest
import torch

from gmmxlnet.errors import ConfigError
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
from gmmxlnet.models.memories.gated import MemoryGatingNetwork

STD = 0.05


def config(**other):
    """A wide model of one layer, so that statistics of 4096 values say something."""
    memory = {"memory_type": "gmm", "num_memory_experts": 4, "memory_slots": 16, "initializer_range": STD}
    size = {"d_model": 256, "n_head": 2, "n_layer": 1, "d_inner": 8, "vocab_size": 64}
    return GMMXLNetConfig(**{**size, **memory, **other})


@pytest.fixture(scope="module")
def initialized():
    torch.manual_seed(0)
    return GMMXLNetForQA(config(expert_init_strategies=["learned", "zeros", "uniform", "orthogonal"]))


def test_each_strategy_draws_what_it_says(initialized):
    learned, zeros, uniform, orthogonal = (expert.detach() for expert in initialized.memory_mixture.expert_memories)
    assert learned.std().item() == pytest.approx(STD, rel=0.05)
    assert learned.abs().max() > 3 * STD
    assert uniform.abs().max() <= math.sqrt(3) * STD
    assert uniform.std().item() == pytest.approx(STD, rel=0.05)
    assert zeros.abs().max() < 0.1 * STD
    torch.testing.assert_close(orthogonal @ orthogonal.T, STD**2 * 256 * torch.eye(16), rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ["learned", "zeros", "uniform", "orthogonal"])
def test_no_two_experts_are_born_equal(strategy):
    torch.manual_seed(0)
    model = GMMXLNetForQA(config(expert_init_strategies=[strategy] * 4, d_model=32))
    experts = model.memory_mixture.expert_memories
    assert len({tuple(expert.flatten().tolist()) for expert in experts}) == 4


def test_no_parameter_is_left_uninitialized(initialized):
    assert all(parameter.isfinite().all() for parameter in initialized.parameters())
    assert initialized.memory_reader.norm.item() == pytest.approx(STD * math.sqrt(256))
    lengths = initialized.encoder.word_embedding.weight.detach().norm(dim=-1)
    assert lengths.mean().item() == pytest.approx(STD * math.sqrt(256), rel=0.05)
    attention = initialized.encoder.layers[0].attention
    for name in ("r_w_bias", "r_r_bias", "r_s_bias", "segment_embedding"):
        assert getattr(attention, name).std().item() == pytest.approx(STD, rel=0.2)


def test_start_is_the_same_for_every_document_and_read_as_the_mean(initialized):
    state = initialized.memory_mixture(3)
    experts = torch.stack(initialized.memory_mixture.expert_memories)
    assert state.experts_Bkmd.shape == (3, 4, 16, 256)
    for row in range(3):
        assert torch.equal(state.experts_Bkmd[row], experts)
        torch.testing.assert_close(state.read_Bmd[row], experts.mean(0))


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3])
def test_routing_is_the_softmax_of_pooled_states_over_temperature(pooling, temperature):
    torch.manual_seed(0)
    router = MemoryGatingNetwork(config(pooling_method=pooling, routing_temperature=temperature))
    states = torch.randn(2, 16, 256)
    if pooling == "attention":
        weights = torch.stack([(row @ router.pooling.query.weight[0]).softmax(0) for row in states])
        pooled = torch.einsum("bm,bmd->bd", weights, states)
    else:
        pooled = states.mean(1) if pooling == "mean" else states.max(1).values
    logits = (pooled @ router.W_gate.weight.T + router.W_gate.bias) / temperature
    routing = router(states)
    torch.testing.assert_close(routing.logits_Bk, logits)
    torch.testing.assert_close(routing.probs_Bk, logits.exp() / logits.exp().sum(-1, keepdim=True))


def test_only_the_most_probable_experts_are_chosen_and_the_gradient_is_that_of_all():
    torch.manual_seed(0)
    router, plain = MemoryGatingNetwork(config(routing_top_k=2)), MemoryGatingNetwork(config())
    plain.load_state_dict(router.state_dict())
    states = torch.randn(3, 16, 256)
    chosen, soft = router(states).probs_Bk, plain(states).probs_Bk
    for row in range(3):
        first, second = soft[row].argsort(descending=True)[:2].tolist()
        expected = torch.zeros(4)
        expected[first], expected[second] = soft[row, first], soft[row, second]
        torch.testing.assert_close(chosen[row], expected / expected.sum())
        assert (chosen[row] == 0).sum() == 2
    weights = torch.randn(3, 4)
    (chosen * weights).sum().backward()
    (soft * weights).sum().backward()
    torch.testing.assert_close(router.W_gate.weight.grad, plain.W_gate.weight.grad)


def test_a_dropped_expert_is_not_chosen_even_if_it_would_be_the_most_probable():
    router = MemoryGatingNetwork(config(routing_top_k=1))
    with torch.no_grad():
        router.W_gate.bias.copy_(torch.tensor([3.0, 2.0, 1.0, 0.0]))
        router.W_gate.weight.zero_()
    probs = router(torch.randn(1, 16, 256), torch.tensor([[False, False, True, True]])).probs_Bk
    assert probs.tolist() == [[0, 0, 1, 0]]


def test_a_frozen_router_routes_and_is_not_trained():
    torch.manual_seed(0)
    router = MemoryGatingNetwork(config(router="frozen", routing_temperature=0.1))
    states = torch.randn(2, 16, 256, requires_grad=True)
    probs = router(states).probs_Bk
    assert not torch.allclose(probs, torch.full((2, 4), 0.25), atol=0.01)
    probs[:, 0].sum().backward()
    assert router.W_gate.weight.grad is None
    assert router.W_gate.bias.grad is None
    assert states.grad.any()


def test_a_uniform_router_routes_alike_to_all_experts_that_are_kept():
    torch.manual_seed(0)
    router = MemoryGatingNetwork(config(router="uniform"))
    kept = torch.tensor([[True, True, True, True], [True, False, False, True]])
    assert router(torch.randn(2, 16, 256), kept).probs_Bk.tolist() == [[0.25] * 4, [0.5, 0, 0, 0.5]]


def test_gates_start_with_the_asked_bias():
    model = GMMXLNetForQA(config(d_model=16, memory_gate_bias=-1.5))
    for gate in model.expert_updater.gate_networks:
        assert (gate.bias == -1.5).all()


def test_there_must_be_as_many_experts_as_are_to_be_chosen():
    with pytest.raises(ConfigError, match="routing_top_k must be at most the 4 experts, or null"):
        config(routing_top_k=5)


def test_routing_is_float32_whatever_the_model_is():
    for states in (torch.randn(2, 16, 256, dtype=torch.bfloat16), torch.randn(2, 16, 256)):
        router = MemoryGatingNetwork(config()).to(states.dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            probs = router(states).probs_Bk
        assert probs.dtype == torch.float32
        torch.testing.assert_close(probs.sum(-1), torch.ones(2), rtol=0, atol=1e-6)


def test_update_is_gated_by_routing_and_each_experts_own_networks():
    torch.manual_seed(0)
    model = GMMXLNetForQA(config(d_model=16, num_memory_experts=3, memory_slots=2, initializer_range=0.5))
    updater = model.expert_updater
    experts, write = torch.randn(2, 3, 2, 16), torch.randn(2, 2, 16)
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    updated = updater(experts, write, probs, updater.stacked())
    for b in range(2):
        for j in range(3):
            both = torch.cat([experts[b, j], write[b]], dim=-1)
            gate = updater.gate_networks[j](both).sigmoid()
            candidate = updater.update_networks[j](both).tanh()
            step = probs[b, j] * gate
            torch.testing.assert_close(updated[b, j], (1 - step) * experts[b, j] + step * candidate)
    assert torch.equal(updated[1, 0], experts[1, 0])  # an expert that is not chosen keeps all it knows


def test_read_is_the_weighted_mean_and_is_injected_at_the_length_of_words():
    torch.manual_seed(0)
    reader = GMMXLNetForQA(config(d_model=16)).memory_reader
    experts, probs = torch.randn(2, 4, 16, 16), torch.rand(2, 4).softmax(-1)
    read = reader(experts, probs)
    torch.testing.assert_close(read, sum(probs[:, j, None, None] * experts[:, j] for j in range(4)))
    carried = reader.as_embeddings(read)
    torch.testing.assert_close(carried.norm(dim=-1), reader.norm.expand(2, 16))
    torch.testing.assert_close(carried, reader.as_embeddings(5 * read))  # the bias is zero at the start


def test_at_the_start_what_is_written_is_what_is_read_and_injected():
    """In direction, slot by slot, for write states as a normalized encoder gives them."""
    torch.manual_seed(0)
    model = GMMXLNetForQA(config(d_model=64, initializer_range=0.02))
    write, probs = torch.randn(8, 16, 64), torch.eye(4)[torch.arange(8) % 4]
    start = model.memory_mixture(8)
    experts = model.expert_updater(start.experts_Bkmd, write, probs, model.expert_updater.stacked())
    carried = model.memory_reader.as_embeddings(model.memory_reader(experts, probs))
    similarity = torch.cosine_similarity(carried[:, :, None], write[:, None], dim=-1)  # (8, 16 carried, 16 written)
    assert (similarity.argmax(-1) == torch.arange(16)).all()
    assert similarity.diagonal(dim1=1, dim2=2).mean() > 0.8
