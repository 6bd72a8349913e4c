"""Routing can be replaced at evaluation, and a mixture that needs its router loses by it."""

import copy

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from gmmxlnet.errors import ConfigError
from gmmxlnet.models import GMMXLNetConfig, MemoryState
from gmmxlnet.models.memories.gated import (
    AggregatedMemoryReader,
    ExpertUpdater,
    GatedMemoryMixture,
    MemoryGatingNetwork,
)
from gmmxlnet.models.memories.routing_ablation import RoutingAblation, routing_ablations

PROBS = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.25, 0.6, 0.15]], dtype=torch.float64)
MODES = ("write-based", "read-based")


def test_names():
    others = ("uniform", "shuffled", "hardened", "without_expert_0", "without_expert_1")
    assert routing_ablations(2) == ("learned", *others)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("learned", PROBS.tolist()),
        ("uniform", [[1 / 3] * 3] * 3),
        ("shuffled", [[0.25, 0.6, 0.15], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]),
        ("hardened", [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        ("without_expert_1", [[5 / 7, 0, 2 / 7], [1 / 8, 0, 7 / 8], [5 / 8, 0, 3 / 8]]),
    ],
)
def test_probabilities(name, rows):
    ablation = RoutingAblation(name, 3, donor_B=torch.tensor([2, 0, 1]))
    torch.testing.assert_close(ablation(PROBS), torch.tensor(rows, dtype=torch.float64))


@pytest.mark.parametrize("name", routing_ablations(3))
def test_probabilities_keep_their_dtype(name):
    assert RoutingAblation(name, 3, donor_B=torch.tensor([2, 0, 1]))(PROBS.bfloat16()).dtype == torch.bfloat16


def test_a_donor_that_has_ended_is_replaced_by_one_still_read():
    given = RoutingAblation("shuffled", 3, donor_B=torch.tensor([3, 2, 1, 0]))(PROBS[:2])
    torch.testing.assert_close(given, PROBS[[1, 0]])


def test_where_only_the_expert_left_out_was_chosen_the_others_are_equal():
    given = RoutingAblation("without_expert_0", 3)(torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(given, torch.tensor([[0.0, 0.5, 0.5]]))


@pytest.mark.parametrize("name", ["shuffled", "random", "without_expert_3"])
def test_what_cannot_be_is_refused(name):
    with pytest.raises(ConfigError, match="routing_ablation must be one of learned, uniform, shuffled"):
        RoutingAblation(name, 3)


def test_a_memory_without_router_has_no_routing_to_replace(tiny_model, document, batch_of):
    with pytest.raises(ConfigError, match="memory_type token has no router"):
        tiny_model("token")(**batch_of([document(0, 2)]), routing_ablation="uniform")


@pytest.mark.parametrize("mode", MODES)
def test_each_routing_changes_what_later_segments_read_and_nothing_before(tiny_model, document, batch_of, mode):
    model = tiny_model("gmm", 3, routing_mode=mode)
    batch = batch_of([document(0, 3), document(1, 3), document(2, 2)])
    donors = torch.tensor([1, 2, 0])
    with torch.no_grad():
        learned = model(**batch).start_logits
        for name in routing_ablations(3)[1:]:
            other = model(**batch, routing_ablation=name, memory_permutation=donors).start_logits
            torch.testing.assert_close(other[:, 0], learned[:, 0], rtol=0, atol=0)
            assert ((other - learned)[:2, 1:].abs().amax(2) > 1e-6).all(), name


def test_an_expert_left_out_does_not_matter(tiny_model, document, batch_of):
    """But for the memory of the start, which is read as the mean of all experts: it is left empty here."""
    model, batch = tiny_model("gmm", 3, routing_mode="read-based"), batch_of([document(0, 3), document(1, 2)])
    with torch.no_grad():
        start = model.memory_mixture(2)
        state = MemoryState(start.experts_Bkmd, torch.zeros_like(start.read_Bmd))
        alone = model(**batch, routing_ablation="without_expert_1", memory_state=state).start_logits
        other = copy.deepcopy(model)
        for parameter in (
            other.expert_mixture.expert_1,
            *other.expert_updater.gate_networks[1].parameters(),
            *other.expert_updater.update_networks[1].parameters(),
        ):
            parameter.add_(torch.randn_like(parameter))
        moved = MemoryState(other.memory_mixture(2).experts_Bkmd, state.read_Bmd)
        again = other(**batch, routing_ablation="without_expert_1", memory_state=moved).start_logits
        learned = other(**batch, memory_state=moved).start_logits
    torch.testing.assert_close(alone, again, rtol=0, atol=1e-12)
    assert (learned - again).abs().max() > 1e-3


# Truth 9 (docs/memory.md)


def parts(k, **other):
    config = GMMXLNetConfig(
        vocab_size=40,
        d_model=8,
        n_head=2,
        n_layer=1,
        d_inner=8,
        initializer_range=0.3,
        memory_type="gmm" if k > 1 else "token",
        num_memory_experts=k,
        memory_slots=1,
        **other,
    )
    return config, GatedMemoryMixture(config), ExpertUpdater(config), AggregatedMemoryReader(config)


def test_truth_9_uniform_routing_of_equal_experts_is_one_memory_with_gates_over_k():
    torch.manual_seed(0)
    k, B = 4, 3
    _, _, updater, reader = parts(k)
    for j in range(1, k):
        updater.gate_networks[j].load_state_dict(updater.gate_networks[0].state_dict())
        updater.update_networks[j].load_state_dict(updater.update_networks[0].state_dict())
    memory_B1md, write_Bmd = torch.randn(B, 1, 1, 8), torch.randn(B, 1, 8)
    uniform_Bk = RoutingAblation("uniform", k)(torch.rand(B, k).softmax(1))
    experts_Bkmd = updater(memory_B1md.expand(-1, k, -1, -1), write_Bmd, uniform_Bk, updater.stacked())
    both = torch.cat([memory_B1md[:, 0], write_Bmd], dim=-1)
    gate, candidate = updater.gate_networks[0](both).sigmoid(), updater.update_networks[0](both).tanh()
    one_Bmd = (1 - gate / k) * memory_B1md[:, 0] + gate / k * candidate
    torch.testing.assert_close(reader(experts_Bkmd, uniform_Bk), one_Bmd)


def test_truth_9_a_router_trained_on_facts_that_cannot_share_an_expert_beats_uniform_routing():
    """Two kinds of fact are written in turn to memories of one slot; the read tokens name the kind asked for."""
    torch.manual_seed(1)
    config, mixture, updater, reader = parts(2, routing_mode="read-based")
    write_router, read_router = MemoryGatingNetwork(config), reader.read_gating_network
    modules = torch.nn.ModuleList([mixture, updater, reader, write_router])
    for module in modules.modules():
        if hasattr(module, "initialize"):
            module.initialize(config)
    kinds_2d = F.normalize(torch.randn(2, 8), dim=-1)

    def loss(reroute, B=256):
        facts_B2d = torch.randn(B, 2, 8).tanh() * 0.8
        asked_B = torch.randint(2, (B,))
        experts_Bkmd = mixture(B).experts_Bkmd
        for kind in range(2):
            write_Bmd = (facts_B2d[:, kind] + 2 * kinds_2d[kind])[:, None]
            probs_Bk = reroute(write_router(write_Bmd).probs_Bk)
            experts_Bkmd = updater(experts_Bkmd, write_Bmd, probs_Bk, updater.stacked())
        probs_Bk = reroute(read_router(2 * kinds_2d[asked_B][:, None]).probs_Bk)
        read_Bd = reader.projection(reader(experts_Bkmd, probs_Bk))[:, 0]
        return F.mse_loss(read_Bd, facts_B2d[torch.arange(B), asked_B])

    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss(RoutingAblation("learned", 2)).backward()
        optimizer.step()
    with torch.no_grad():
        torch.manual_seed(2)
        learned = loss(RoutingAblation("learned", 2), 2048)
        torch.manual_seed(2)
        uniform = loss(RoutingAblation("uniform", 2), 2048)
    assert learned < 0.5 * uniform, (learned, uniform)
