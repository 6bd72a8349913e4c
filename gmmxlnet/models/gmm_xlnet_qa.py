"""`GMMXLNetForQA`: reads a document segment by segment, with a memory that travels, and points at the answer.

Shapes: B documents, S segments, L tokens of a segment, N segments of all documents together, k experts, m slots, d hidden size.
Documents are sorted by their number of segments, so that those still being read are always the first rows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, XLNetForQuestionAnsweringSimple
from transformers import initialization as init

from gmmxlnet.errors import ConfigError
from gmmxlnet.models import losses
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.convert import convert_xlnet_weights, extended_config
from gmmxlnet.models.encoder import RelativeAttention, XLNetEncoder
from gmmxlnet.models.memory import (
    AggregatedMemoryReader,
    ExpertUpdater,
    GatedMemoryMixture,
    MemoryGatingNetwork,
    MemoryState,
    Routing,
    routing_entropy,
)
from gmmxlnet.models.outputs import GMMXLNetOutput

MEMORY_ABLATIONS = ("normal", "zeroed", "shuffled", "reset")


@dataclass
class _Segment:
    """One segment of the n documents that have it."""

    input_ids_nL: Tensor
    attention_mask_nL: Tensor
    token_type_ids_nL: Tensor

    @property
    def num_documents(self) -> int:
        return self.input_ids_nL.shape[0]


@dataclass
class _Reading:
    """What reading a segment gave: hidden states (n, L, d), routing, and the memory as read afterwards (n, m, d)."""

    hidden_nLd: Tensor
    routing: Routing | None = None
    read_nmd: Tensor | None = None


class GMMXLNetForQA(PreTrainedModel):
    """XLNet with a gated mixture of memories and a span head.

    `forward` reads a document so: (1) the memory last read replaces the read tokens' embeddings; (2) the segment is
    encoded and its logits taken; (3) the write tokens' hidden states are (4) routed, (5) gated into the experts, and
    (6) the experts are read for the next segment.

    Build it from a `GMMXLNetConfig`, or around an encoder: `GMMXLNetForQA(base_model=xlnet, num_experts=4,
    memory_slots=16)` copies the weights of a `transformers.XLNetForQuestionAnsweringSimple` and adds 2·m memory tokens
    to its vocabulary. `use_gmm_memory=False` leaves the memory out; one expert is token memory.
    """

    config_class = GMMXLNetConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # `forward` takes further keywords, but not the Trainer's

    def __init__(
        self,
        config: GMMXLNetConfig | None = None,
        *,
        base_model: XLNetForQuestionAnsweringSimple | None = None,
        num_experts: int = 4,
        memory_slots: int = 16,
        use_gmm_memory: bool = True,
        **memory: Any,
    ) -> None:
        if (config is None) == (base_model is None):
            raise ConfigError("GMMXLNetForQA needs either a config or a base_model")
        if base_model is not None:
            memory_type = ("token" if num_experts == 1 else "gmm") if use_gmm_memory else "none"
            config = extended_config(
                base_model.config,
                memory_type=memory_type,
                num_memory_experts=num_experts,
                memory_slots=memory_slots,
                **memory,
            )
        super().__init__(config)
        self.encoder = XLNetEncoder(config)
        self.qa_head = nn.Linear(config.d_model, 2)
        if config.has_memory_tokens:
            self.expert_mixture = GatedMemoryMixture(config)
            self.expert_updater = ExpertUpdater(config)
            self.memory_reader = AggregatedMemoryReader(config)
            if config.memory_type == "gmm":
                self.routing_network = MemoryGatingNetwork(config)
        self.last_routing_probs: Tensor | None = None
        self.post_init()
        if base_model is not None:
            convert_xlnet_weights(base_model, self)

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: `_init_weights` is written as transformers' own, so that no module may be passed over.

        transformers skips modules without parameters of their own in others' code, and router and updater have none.
        """
        return False

    def _init_weights(self, module: nn.Module) -> None:
        """XLNet's initialization, and the memory's own; children come before what holds them."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, RelativeAttention):
            for parameter in (module.r_w_bias, module.r_r_bias, module.r_s_bias, module.segment_embedding):
                init.normal_(parameter, std=std)
        elif isinstance(module, GatedMemoryMixture | MemoryGatingNetwork | ExpertUpdater):
            module.reset_parameters()
        elif isinstance(module, AggregatedMemoryReader):
            module.reset_parameters(norm=std * self.config.d_model**0.5)  # the length of a new word embedding

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings, memory tokens' included."""
        return self.encoder.word_embedding

    @property
    def memory_mixture(self) -> GatedMemoryMixture:
        """The experts' initial memories, by the guide's name."""
        return self.expert_mixture

    def __getattr__(self, name: str) -> Any:
        """As torch's; it is asked for `memory_mixture` when the property has failed, and says why."""
        if name == "memory_mixture":
            raise AttributeError(
                "Model does not have memory_mixture attribute: it was built without memory; "
                "build it with use_gmm_memory=True, or load a gmm checkpoint"
            )
        return super().__getattr__(name)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        num_segments: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        memory_state: MemoryState | None = None,
        memory_ablation: str = "normal",
        memory_permutation: Tensor | None = None,
        **_metadata: Tensor,
    ) -> GMMXLNetOutput:
        """Read whole documents (B, S, L), or one segment (B, L) with the state passed in and out.

        Args:
            input_ids: int64 ids, padded on the left. attention_mask: 1 for tokens, 0 for padding; all 1 when left out.
            token_type_ids: XLNet's segment ids (context 0, question 1, `<cls>` 2, padding 3); zeros when left out,
                which costs XLNet its segment attention.
            num_segments: (B,) how many segments each document has; found from the mask when left out.
            start_positions, end_positions: (B, S) labels, `<cls>` where the segment does not hold the answer, negative where there is no segment.
            memory_state: the state to start from, in the order of the rows; the learned initial memories when left out.
            memory_ablation: `normal`; `zeroed`: zeros are injected; `reset`: each segment starts from the initial
                memories; `shuffled`: each document is handed what document `memory_permutation[row]` has in memory.
            _metadata: what else a batch carries for those who read the logits.

        Raises: ConfigError for an unknown ablation, or `shuffled` without a permutation.
        """
        if memory_ablation not in MEMORY_ABLATIONS or (memory_ablation == "shuffled" and memory_permutation is None):
            raise ConfigError(
                f"memory_ablation must be one of {', '.join(MEMORY_ABLATIONS)} (shuffled with memory_permutation), "
                f"not {memory_ablation!r}"
            )
        single = input_ids.dim() == 2
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        token_type_ids = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        if single:
            input_ids, attention_mask, token_type_ids, start_positions, end_positions = (
                None if x is None else x.unsqueeze(1)
                for x in (input_ids, attention_mask, token_type_ids, start_positions, end_positions)
            )
        if num_segments is None:
            num_segments = attention_mask.any(-1).sum(-1)
        order_B = num_segments.argsort(descending=True, stable=True)
        rank_B = order_B.argsort()
        segments = _active_segments(num_segments, *(x[order_B] for x in (input_ids, attention_mask, token_type_ids)))
        if not self.config.has_memory_tokens:
            readings, state = self._read_alone(segments), None
        else:
            start = self.expert_mixture(len(order_B)) if memory_state is None else memory_state.rows(order_B)
            donors = None
            if memory_ablation == "shuffled":
                donated = self._read_in_turn(segments, start, "normal")[2]
                donors = [read_Bmd[rank_B[memory_permutation[order_B]]] for read_Bmd in donated]
            readings, state, _ = self._read_in_turn(segments, start, memory_ablation, donors)
            state = state.rows(rank_B)
        output = self._output(
            segments, readings, state, order_B, rank_B, input_ids.shape[:2], start_positions, end_positions
        )
        if single:
            for name in ("start_logits", "end_logits", "routing_probs", "routing_logits"):
                if name in output:
                    output[name] = output[name].squeeze(1)
        return output

    def _read_alone(self, segments: list[_Segment]) -> list[_Reading]:
        """Encode all segments of all documents in one batch: without memory none waits for another."""
        ids, mask, types = (
            torch.cat([getattr(segment, name) for segment in segments])
            for name in ("input_ids_nL", "attention_mask_nL", "token_type_ids_nL")
        )
        hidden_NLd = self.encoder(self.encoder.word_embedding(ids), mask, types, self._position_keys(segments))
        return [_Reading(hidden) for hidden in hidden_NLd.split([segment.num_documents for segment in segments])]

    def _read_in_turn(
        self, segments: list[_Segment], start: MemoryState, ablation: str, donors: list[Tensor] | None = None
    ) -> tuple[list[_Reading], MemoryState, list[Tensor]]:
        """The recurrence: readings, the last state, and the memory R (B, m, d) that stood before each segment."""
        position_keys = self._position_keys(segments)
        stacked = self.expert_updater.stacked()
        state, readings, reads_before = start, [], []
        for s, segment in enumerate(segments):
            n = segment.num_documents
            if ablation == "reset":
                state = start
            if self.config.bptt_segments and s % self.config.bptt_segments == 0 and s > 0:
                state = state.detach()
            reads_before.append(state.read_Bmd)
            active = state.rows(slice(n))
            source_nmd = active.read_Bmd if donors is None else donors[s][:n]
            carried_nmd = self.memory_reader.as_embeddings(source_nmd)
            if ablation == "zeroed":
                carried_nmd = torch.zeros_like(carried_nmd)
            reading, new = self._step(segment, active, carried_nmd, position_keys, stacked)
            readings.append(reading)
            state = new.followed_by(state.rows(slice(n, None)))
        return readings, state, reads_before

    def _step(
        self,
        segment: _Segment,
        state: MemoryState,
        carried_nmd: Tensor,
        position_keys: list[Tensor],
        stacked: tuple[Tensor, Tensor],
    ) -> tuple[_Reading, MemoryState]:
        """One segment: inject, encode, take the write states, route, update, read."""
        ids = segment.input_ids_nL
        embedding_nLd = self.encoder.word_embedding(ids)
        at_read_nLm = self._slots(ids, self.config.read_token_id, embedding_nLd.dtype)
        at_write_nLm = self._slots(ids, self.config.write_token_id, embedding_nLd.dtype)
        is_read_nL1 = at_read_nLm.sum(-1, keepdim=True)
        embedding_nLd = embedding_nLd * (1 - is_read_nL1) + at_read_nLm @ carried_nmd.to(embedding_nLd.dtype)
        hidden_nLd = self.encoder(embedding_nLd, segment.attention_mask_nL, segment.token_type_ids_nL, position_keys)
        write_nmd = at_write_nLm.transpose(1, 2).to(hidden_nLd.dtype) @ hidden_nLd
        if self.config.memory_type == "gmm":
            routing = self.routing_network(write_nmd)
            read_probs_nk = routing.probs_Bk
        else:
            routing, read_probs_nk = None, write_nmd.new_ones(len(ids), 1)
        write_probs_nk = read_probs_nk
        experts_nkmd = self.expert_updater(state.experts_Bkmd, write_nmd, write_probs_nk, stacked)
        if self.memory_reader.read_gating_network is not None:
            read_states_nmd = at_read_nLm.transpose(1, 2).to(hidden_nLd.dtype) @ hidden_nLd
            read_probs_nk = self.memory_reader.read_gating_network(read_states_nmd).probs_Bk
        read_nmd = self.memory_reader(experts_nkmd, read_probs_nk)
        return _Reading(hidden_nLd, routing, read_nmd), MemoryState(experts_nkmd, read_nmd)

    def _slots(self, ids_nL: Tensor, first_id: int, dtype: torch.dtype) -> Tensor:
        """Which slot's token stands where: (n, L, m) of 0 and 1. A product with it gathers or scatters m tokens exactly."""
        slot_m = torch.arange(first_id, first_id + self.config.memory_slots, device=ids_nL.device)
        return (ids_nL[..., None] == slot_m).to(dtype)

    def _position_keys(self, segments: list[_Segment]) -> list[Tensor]:
        return self.encoder.position_keys(segments[0].input_ids_nL.shape[1])

    def _output(
        self,
        segments: list[_Segment],
        readings: list[_Reading],
        state: MemoryState | None,
        order_B: Tensor,
        rank_B: Tensor,
        shape: tuple[int, int],
        start_positions: Tensor | None,
        end_positions: Tensor | None,
    ) -> GMMXLNetOutput:
        logits = [self.qa_head(reading.hidden_nLd) for reading in readings]  # (n, L, 2) each
        start_BSL, end_BSL = _padded(logits, shape)[rank_B].unbind(-1)
        output = GMMXLNetOutput(start_logits=start_BSL, end_logits=end_BSL, memory_state=state)
        if self.config.memory_type == "gmm":
            output.routing_probs = _padded([reading.routing.probs_Bk for reading in readings], shape)[rank_B]
            output.routing_logits = _padded([reading.routing.logits_Bk for reading in readings], shape)[rank_B]
            self.last_routing_probs = output.routing_probs.detach()
        if start_positions is not None and end_positions is not None:
            positions = (start_positions[order_B], end_positions[order_B])
            parts = self._loss_parts(segments, readings, logits, positions)
            output.loss = self._weighted(parts)
            output.loss_parts = {name: part.detach() for name, part in parts.items()}
        return output

    def _loss_parts(
        self,
        segments: list[_Segment],
        readings: list[_Reading],
        logits: list[Tensor],
        positions: tuple[Tensor, Tensor],
    ) -> dict[str, Tensor]:
        """The unweighted parts of the loss; all inputs sorted by number of segments."""
        content = [self._content(segment) for segment in segments]
        cls = [(segment.token_type_ids_nL == 2) & segment.attention_mask_nL.bool() for segment in segments]
        span = 0.0
        for boundary, labels_BS in enumerate(positions):
            boundary_logits = [x[..., boundary] for x in logits]
            candidates = [a | b for a, b in zip(content, cls, strict=True)]
            if self.config.span_loss == "document":
                span = span + losses.document_span_loss(
                    _padded(boundary_logits, labels_BS.shape),
                    labels_BS,
                    _padded(candidates, labels_BS.shape),
                    _padded(cls, labels_BS.shape),
                )
            else:
                labels_N = torch.cat([labels_BS[: segment.num_documents, s] for s, segment in enumerate(segments)])
                span = span + losses.segment_span_loss(torch.cat(boundary_logits), labels_N, torch.cat(candidates))
        parts = {"span": span / 2}
        if self.config.memory_type == "gmm":
            probs_Nk = torch.cat([reading.routing.probs_Bk for reading in readings])
            parts["load_balance"] = losses.load_balance_loss(probs_Nk)
            parts["entropy"] = routing_entropy(probs_Nk).mean()
        if self.config.has_memory_tokens and self.config.memory_reconstruction_weight > 0:
            parts["reconstruction"] = losses.reconstruction_loss(
                self.memory_reader.as_embeddings(torch.cat([reading.read_nmd for reading in readings])),
                self.encoder.word_embedding.weight[: self.config.read_token_id],
                torch.cat([segment.input_ids_nL for segment in segments]),
                torch.cat(content),
                self.memory_reader.norm,
            )
        return parts

    def _weighted(self, parts: dict[str, Tensor]) -> Tensor:
        weight = {
            "span": 1.0,
            "load_balance": self.config.load_balance_weight,
            "entropy": -self.config.entropy_regularization_weight,
            "reconstruction": self.config.memory_reconstruction_weight,
        }
        return sum(weight[name] * part for name, part in parts.items())

    def _content(self, segment: _Segment) -> Tensor:
        """Which tokens are the document's own: neither structure, question, memory nor padding. (n, L) bool."""
        return (
            segment.attention_mask_nL.bool()
            & (segment.token_type_ids_nL == 0)
            & (segment.input_ids_nL < self.config.read_token_id)
            & (segment.input_ids_nL != self.config.sep_token_id)
        )


def _active_segments(num_segments_B: Tensor, ids_BSL: Tensor, mask_BSL: Tensor, types_BSL: Tensor) -> list[_Segment]:
    """Each segment of the documents that have it; documents sorted by falling number of segments."""
    counts = num_segments_B.tolist()
    active = [sum(count > s for count in counts) for s in range(max(counts))]
    return [_Segment(ids_BSL[:n, s], mask_BSL[:n, s], types_BSL[:n, s]) for s, n in enumerate(active)]


def _padded(per_segment: list[Tensor], shape: tuple[int, int]) -> Tensor:
    """Values (n_s, ...) of segment s's n_s documents as one tensor (B, S, ...), zeros where there is none."""
    B, S = shape
    rows = [torch.cat([x, x.new_zeros(B - len(x), *x.shape[1:])]) for x in per_segment]
    return torch.stack(rows + [torch.zeros_like(rows[0])] * (S - len(rows)), dim=1)
