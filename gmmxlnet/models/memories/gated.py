"""The gated mixture of memories: experts, router, gated update, weighted read.

In each step the segment's write states are pooled and routed, each expert is updated through its own gate and
candidate, and the experts are read as one memory, which is projected to the space of word embeddings and replaces the
embeddings of the next segment's read tokens. With `memory_lookup` every token also looks up the slots of all experts.

Shapes: B documents, k experts, m slots, d hidden size.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import initialization as init

from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.encoder import XLNetEncoder
from gmmxlnet.models.losses import at_least_float32
from gmmxlnet.models.memories.interface import Memory, MemoryModule, near_identity
from gmmxlnet.models.memories.lookup import MemoryLookup
from gmmxlnet.models.memories.routing_ablation import RoutingAblation
from gmmxlnet.models.recurrence import Reading, Routing, Segment, State
from gmmxlnet.options import check_top_k


class GatedMemory(Memory):
    """Memory type `token`: one expert, no router."""

    description = "one memory of {memory_num_tokens} slots, without a router"

    def modules(self) -> dict[str, nn.Module]:
        """Return experts, updater and reader, and the lookup if it is asked for."""
        modules: dict[str, nn.Module] = {
            "expert_mixture": GatedMemoryMixture(self.config),
            "expert_updater": ExpertUpdater(self.config),
            "memory_reader": AggregatedMemoryReader(self.config),
        }
        return modules | ({"memory_lookup": MemoryLookup(self.config)} if self.config.memory_lookup else {})

    def recurrence(self, model: Any, num_documents: int, length: int) -> "GatedRecurrence":
        """Return the recurrence of the experts; in training, with expert dropout."""
        config, kept_Bk = self.config, None
        if model.training and config.expert_dropout > 0:
            kept_Bk = draw_kept_experts(num_documents, config.num_memory_experts, config.expert_dropout, model.device)
        return GatedRecurrence(
            config,
            model.encoder,
            model.expert_mixture,
            model.routing_network if config.has_router else None,
            model.expert_updater,
            model.memory_reader,
            length=length,
            kept_Bk=kept_Bk,
            lookup=model.memory_lookup if config.memory_lookup else None,
        )

    def speaker(self, model: Any) -> "AggregatedMemoryReader":
        """Return the reader."""
        reader: AggregatedMemoryReader = model.memory_reader
        return reader

    @staticmethod
    def sizes(size: Callable[[str, int], int | None], count: Callable[[str], int]) -> dict[str, int | None]:
        """Return the number of experts and of their slots."""
        return {
            "num_memory_experts": count("expert_mixture."),
            "memory_slots": size("expert_mixture.expert_0", 0),
        }


class GatedMixtureMemory(GatedMemory):
    """Memory type `gmm`: several experts and a router."""

    description = (
        "{num_memory_experts} memory experts of {memory_num_tokens} slots, {routing_mode} routing, "
        "temperature {routing_temperature}"
    )

    def check(self) -> None:
        """Raise ConfigError if there are fewer experts than `routing_top_k`."""
        check_top_k(self.config.routing_top_k, self.config.num_memory_experts)

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules of `GatedMemory` and the router."""
        return super().modules() | {"routing_network": MemoryGatingNetwork(self.config)}


@dataclass
class MemoryState(State):
    """The state passed from segment to segment, one row per document.

    experts_Bkmd: the experts' memories. read_Bmd: the last read memory, in the experts' space.
    """

    experts_Bkmd: Tensor
    read_Bmd: Tensor


def draw_kept_experts(num_documents: int, num_experts: int, dropout: float, device: torch.device) -> Tensor:
    """Draw the experts that each document keeps, (B, k) bool; each is dropped with probability `dropout`, never all."""
    draw_Bk = torch.rand(num_documents, num_experts, device=device)
    return (draw_Bk >= dropout) | (draw_Bk == draw_Bk.amax(-1, keepdim=True))


class GatedMemoryMixture(MemoryModule):
    """The k experts' initial memories, each a learned tensor (m, d) named `expert_0` … `expert_{k-1}`."""

    def __init__(self, config: GMMXLNetConfig) -> None:
        super().__init__()
        self.strategies = list(config.expert_init_strategies)
        for j in range(config.num_memory_experts):
            self.register_parameter(f"expert_{j}", nn.Parameter(torch.empty(config.memory_slots, config.d_model)))

    @property
    def expert_memories(self) -> list[Tensor]:
        """Initial memory (m, d) of each expert."""
        return [getattr(self, f"expert_{j}") for j in range(len(self.strategies))]

    def initialize(self, config: GMMXLNetConfig) -> None:
        """Initialize every expert by its strategy.

        `learned` draws from N(0, std), `uniform` from U(-√3·std, √3·std), `orthogonal` draws orthogonal rows (m <= d)
        with the expected norm of `learned`. `zeros` draws from N(0, 0.01·std), since only their gates could
        differentiate experts with equal initial memories.
        """
        std = config.initializer_range
        for strategy, expert in zip(self.strategies, self.expert_memories, strict=True):
            if strategy == "learned":
                init.normal_(expert, std=std)
            elif strategy == "uniform":
                init.uniform_(expert, -(3**0.5) * std, 3**0.5 * std)
            elif strategy == "orthogonal":
                init.orthogonal_(expert, gain=std * expert.shape[-1] ** 0.5)
            else:
                init.normal_(expert, std=0.01 * std)

    def forward(self, num_documents: int) -> MemoryState:
        """Return the state before the first segment, equal for all documents; the read memory is the experts' mean."""
        experts_kmd = torch.stack(self.expert_memories)
        return MemoryState(
            experts_kmd.expand(num_documents, -1, -1, -1), experts_kmd.mean(0).expand(num_documents, -1, -1)
        )


class SlotPooling(nn.Module):
    """Pools the states (B, m, d) of m tokens to (B, d): mean, maximum, or a learned weighted mean."""

    def __init__(self, method: str, d_model: int) -> None:
        super().__init__()
        self.method = method
        if method == "attention":
            self.query = nn.Linear(d_model, 1, bias=False)

    def forward(self, states_Bmd: Tensor) -> Tensor:
        """Pool over the slots."""
        if self.method == "mean":
            return states_Bmd.mean(1)
        if self.method == "max":
            return states_Bmd.amax(1)
        return (self.query(states_Bmd).softmax(1) * states_Bmd).sum(1)


class MemoryGatingNetwork(MemoryModule):
    """The router: p = softmax(W_gate · pool(states) / T), computed in float32 for 16-bit models.

    With `routing_top_k` only the most probable experts keep their probabilities, rescaled to sum to 1; the gradient is
    that of p itself (straight-through: Bengio et al. 2013, https://arxiv.org/abs/1308.3432). A `frozen` router's W_gate
    is not trained; with `uniform` p is 1/k whatever the states are.
    """

    def __init__(self, config: GMMXLNetConfig) -> None:
        super().__init__()
        self.router, self.top_k, self.temperature = config.router, config.routing_top_k, config.routing_temperature
        self.pooling = SlotPooling(config.pooling_method, config.d_model)
        self.W_gate = nn.Linear(config.d_model, config.num_memory_experts)

    def initialize(self, config: GMMXLNetConfig) -> None:
        """Initialize with logits of standard deviation about 0.1, so that routing starts almost uniform."""
        init.normal_(self.W_gate.weight, std=0.1 * self.W_gate.in_features**-0.5)
        init.zeros_(self.W_gate.bias)

    def forward(self, states_Bmd: Tensor, kept_Bk: Tensor | None = None) -> Routing:
        """Route each document by the states of its m tokens, among the experts it keeps (bool; default: all)."""
        weight, bias = self.W_gate.weight, self.W_gate.bias
        if self.router == "frozen":
            weight, bias = weight.detach(), bias.detach()
        with torch.autocast(states_Bmd.device.type, enabled=False):
            pooled = self.pooling(states_Bmd.to(weight.dtype))
            logits = F.linear(*map(at_least_float32, (pooled, weight, bias))) / self.temperature
            if self.router == "uniform":
                logits = torch.zeros_like(logits)
            kept = logits if kept_Bk is None else logits.masked_fill(~kept_Bk, -torch.inf)
            probs_Bk = kept.softmax(-1)
            return Routing(logits, probs_Bk if self.top_k is None else most_probable(probs_Bk, self.top_k))


def most_probable(probs_Bk: Tensor, count: int) -> Tensor:
    """Set all but the `count` largest probabilities to 0 and rescale to sum to 1; the gradient is straight-through."""
    chosen = probs_Bk.detach()
    top = chosen.topk(count, dim=-1)
    chosen = torch.zeros_like(chosen).scatter(-1, top.indices, top.values)
    return chosen / chosen.sum(-1, keepdim=True) + (probs_Bk - probs_Bk.detach())


class ExpertUpdater(MemoryModule):
    """Each expert's gate and candidate: E_j <- (1 - p_j g_j) E_j + p_j g_j u_j.

    g_j = σ(G_j [E_j; W]) and u_j = tanh(U_j [E_j; W]) for each slot. One batched product applies all k networks.
    """

    def __init__(self, config: GMMXLNetConfig) -> None:
        super().__init__()
        k, d = config.num_memory_experts, config.d_model
        self.gate_networks = nn.ModuleList(nn.Linear(2 * d, d) for _ in range(k))
        self.update_networks = nn.ModuleList(nn.Linear(2 * d, d) for _ in range(k))

    def initialize(self, config: GMMXLNetConfig) -> None:
        """Initialize candidates to about tanh of the write states, and gates to be open.

        Reading cannot be learned while nothing is written.
        """
        for gate, update in zip(self.gate_networks, self.update_networks, strict=True):
            init.normal_(gate.weight, std=gate.in_features**-0.5)
            init.constant_(gate.bias, float(config.memory_gate_bias))
            near_identity(update)

    def stacked(self) -> tuple[Tensor, Tensor]:
        """Concatenate weights (k, 2d, 2d) and biases (k, 1, 2d) of gates and candidates, once per batch."""
        pairs = list(zip(self.gate_networks, self.update_networks, strict=True))
        weight = torch.stack([torch.cat([gate.weight, update.weight]).T for gate, update in pairs])
        bias = torch.stack([torch.cat([gate.bias, update.bias])[None] for gate, update in pairs])
        return weight, bias

    def forward(
        self, experts_Bkmd: Tensor, write_Bmd: Tensor, probs_Bk: Tensor, stacked: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return the experts (B, k, m, d) updated with a segment's write states and routing."""
        B, k, m, _ = experts_Bkmd.shape
        both = torch.cat([experts_Bkmd, write_Bmd[:, None].expand(-1, k, -1, -1)], dim=-1)  # (B, k, m, 2d)
        weight, bias = stacked
        out = torch.baddbmm(bias, both.transpose(0, 1).flatten(1, 2), weight)  # (k, B·m, 2d)
        gate, candidate = out.unflatten(1, (B, m)).transpose(0, 1).chunk(2, dim=-1)
        gate, candidate = gate.to(experts_Bkmd.dtype), candidate.to(experts_Bkmd.dtype)  # 16 bits under autocast
        step = probs_Bk[:, :, None, None].to(gate.dtype) * gate.sigmoid()
        return torch.lerp(experts_Bkmd, candidate.tanh(), step)


class AggregatedMemoryReader(MemoryModule):
    """Reads the experts as one memory, R = Σ q_j E_j, and projects R to vectors for the read tokens.

    q is the write routing (`write-based`) or that of a second router on the read tokens' hidden states (`read-based`).

    The injected vectors are P·R, scaled to the norm of word embeddings: XLNet does not normalize its input, and hidden
    states are several times longer than embeddings.
    """

    def __init__(self, config: GMMXLNetConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.d_model, config.d_model)
        self.norm = nn.Parameter(torch.empty(1))  # one-dimensional, since FSDP does not shard scalars
        reads_apart = config.has_router and config.routing_mode == "read-based"
        self.read_gating_network = MemoryGatingNetwork(config) if reads_apart else None

    def initialize(self, config: GMMXLNetConfig) -> None:
        """Initialize P near the identity, and the norm to that of a newly initialized word embedding."""
        near_identity(self.projection)
        init.constant_(self.norm, config.initializer_range * config.d_model**0.5)

    def forward(self, experts_Bkmd: Tensor, probs_Bk: Tensor) -> Tensor:
        """Return R (B, m, d)."""
        return torch.einsum("bk,bkmd->bmd", probs_Bk.to(experts_Bkmd.dtype), experts_Bkmd)

    def as_embeddings(self, read_Bmd: Tensor) -> Tensor:
        """Project R (B, m, d) to the space of word embeddings (B, m, d), all of length `norm`."""
        return F.normalize(self.projection(read_Bmd), dim=-1) * self.norm


class GatedRecurrence:
    """The recurrence of `token` (one expert, no router) and `gmm` (several experts).

    For each segment: (1) the last read memory replaces the read tokens' embeddings, and tokens look the experts up;
    (2) the segment is encoded; (3) the write tokens' hidden states are (4) routed and (5) written to the experts
    through gates; (6) the experts are read.

    Args:
        router: None for a single expert.
        reroute (attribute): a `RoutingAblation` that replaces the router's probabilities, or None.
        length: L. kept_Bk: `draw_kept_experts` of the documents in reading order, or None to keep all.
        lookup: None if tokens look nothing up.
    """

    def __init__(
        self,
        config: GMMXLNetConfig,
        encoder: XLNetEncoder,
        mixture: GatedMemoryMixture,
        router: MemoryGatingNetwork | None,
        updater: ExpertUpdater,
        reader: AggregatedMemoryReader,
        *,
        length: int,
        kept_Bk: Tensor | None = None,
        lookup: MemoryLookup | None = None,
    ) -> None:
        self.config, self.encoder, self.kept_Bk = config, encoder, kept_Bk
        self.mixture, self.router, self.updater, self.reader = mixture, router, updater, reader
        self.lookup = lookup
        self.position_keys = encoder.position_keys(length, length)
        self.stacked = updater.stacked()
        self.reroute: RoutingAblation | None = None

    def start(self, num_documents: int) -> MemoryState:
        """Return the learned initial memories."""
        return self.mixture(num_documents)

    def rerouted(self, reroute: RoutingAblation) -> Self:
        """Return this recurrence with another routing; parameters and position keys are shared."""
        other = copy.copy(self)
        other.reroute = reroute
        return other

    def read(self, segment: Segment, state: MemoryState, *, zeroed: bool = False) -> tuple[Reading, MemoryState]:
        """Read one segment; if `zeroed`, zeros are injected instead of the memory, and nothing is looked up."""
        return self.update(self.encode(segment, state, zeroed=zeroed), state)

    def encode(self, segment: Segment, state: MemoryState, *, zeroed: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return the hidden states (n, L, d) of a segment, and those of its write and of its read tokens (n, m, d)."""
        ids = segment.input_ids_nL
        carried_nmd = self.reader.as_embeddings(state.read_Bmd)
        if zeroed:
            carried_nmd = torch.zeros_like(carried_nmd)
        embedding_nLd = self.encoder.word_embedding(ids)
        at_read_nLm = self._slots(ids, self.config.read_token_id, embedding_nLd.dtype)
        at_write_nLm = self._slots(ids, self.config.write_token_id, embedding_nLd.dtype)
        is_read_nL1 = at_read_nLm.sum(-1, keepdim=True)
        if self.lookup is not None and not zeroed:
            embedding_nLd = embedding_nLd + self._looked_up(self.lookup, embedding_nLd, segment, state)
        embedding_nLd = embedding_nLd * (1 - is_read_nL1) + at_read_nLm @ carried_nmd.to(embedding_nLd.dtype)
        hidden_nLd = self.encoder(
            embedding_nLd, segment.attention_mask_nL, segment.token_type_ids_nL, self.position_keys
        )
        write_nmd = at_write_nLm.transpose(1, 2).to(hidden_nLd.dtype) @ hidden_nLd
        read_states_nmd = at_read_nLm.transpose(1, 2).to(hidden_nLd.dtype) @ hidden_nLd
        return hidden_nLd, write_nmd, read_states_nmd

    def _looked_up(self, lookup: MemoryLookup, embedding_nLd: Tensor, segment: Segment, state: MemoryState) -> Tensor:
        """Return what the tokens (n, L, d) but those of the memory find in all experts that the document reads."""
        n, k, m, _ = state.experts_Bkmd.shape
        readable_nk = torch.ones(n, k, dtype=torch.bool, device=embedding_nLd.device)
        if segment.number > 0:  # before the first segment, all experts' initial memories are read
            if self.kept_Bk is not None:
                readable_nk = readable_nk & self.kept_Bk[:n]
            if self.reroute is not None:
                readable_nk = readable_nk & self.reroute.readable_k.to(readable_nk.device)
        found_nLd = lookup(
            embedding_nLd,
            self.reader.as_embeddings(state.experts_Bkmd.flatten(1, 2)),
            self.reader.norm,
            readable_nk.repeat_interleave(m, dim=1),
        )
        return found_nLd * (segment.input_ids_nL < self.config.read_token_id)[..., None]

    def update(self, encoded: tuple[Tensor, Tensor, Tensor], state: MemoryState) -> tuple[Reading, MemoryState]:
        """Route, write and read after a segment was encoded: what routing can change of `read`."""
        return self._update(*encoded, state)

    def _update(
        self, hidden_nLd: Tensor, write_nmd: Tensor, read_states_nmd: Tensor, state: MemoryState
    ) -> tuple[Reading, MemoryState]:
        """Route, write and read after the segment is encoded."""
        kept_nk = None if self.kept_Bk is None else self.kept_Bk[: len(write_nmd)]
        if self.router is None:
            routing, write_probs_nk = None, write_nmd.new_ones(len(write_nmd), 1)
        else:
            routing = self._rerouted(self.router(write_nmd, kept_nk))
            write_probs_nk = routing.probs_Bk
        experts_nkmd = self.updater(state.experts_Bkmd, write_nmd, write_probs_nk, self.stacked)
        read_router = self.reader.read_gating_network
        read_probs_nk = write_probs_nk
        if read_router is not None:
            read_probs_nk = self._rerouted(read_router(read_states_nmd, kept_nk)).probs_Bk
        read_nmd = self.reader(experts_nkmd, read_probs_nk)
        asked_nMd = read_nmd if self.lookup is None else experts_nkmd.flatten(1, 2)  # all that tokens can find
        return Reading(hidden_nLd, routing, asked_nMd), MemoryState(experts_nkmd, read_nmd)

    def _rerouted(self, routing: Routing) -> Routing:
        """Return the router's routing, or that of an ablation if one is set."""
        return routing if self.reroute is None else Routing(routing.logits_Bk, self.reroute(routing.probs_Bk))

    def _slots(self, ids_nL: Tensor, first_id: int, dtype: torch.dtype) -> Tensor:
        """Return the one-hot positions (n, L, m) of the slots' tokens; products with it gather or scatter m tokens."""
        slot_m = torch.arange(first_id, first_id + self.config.memory_slots, device=ids_nL.device)
        return (ids_nL[..., None] == slot_m).to(dtype)
