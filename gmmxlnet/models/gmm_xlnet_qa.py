"""`GMMXLNetForQA`: reads a document segment by segment, with a memory that travels, and points at the answer.

Shapes: B documents, S segments, L tokens of a segment, N segments of all documents, k experts, m slots, d hidden size.
Documents are sorted by their number of segments, so that those still being read are always the first rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, XLNetForQuestionAnsweringSimple
from transformers import initialization as init

from gmmxlnet.errors import ConfigError
from gmmxlnet.models import losses
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.convert import convert_xlnet_weights, extended_config
from gmmxlnet.models.differentiable import BankRecurrence, MemoryBank
from gmmxlnet.models.encoder import RelativeAttention, XLNetEncoder
from gmmxlnet.models.memory import (
    AggregatedMemoryReader,
    ExpertUpdater,
    GatedMemoryMixture,
    GatedRecurrence,
    MemoryGatingNetwork,
    draw_kept_experts,
    routing_entropy,
)
from gmmxlnet.models.mems import CacheRecurrence
from gmmxlnet.models.outputs import GMMXLNetOutput
from gmmxlnet.models.recurrence import (
    MEMORY_ABLATIONS,
    Reading,
    Recurrence,
    Segment,
    State,
    active_segments,
    padded,
    read_in_turn,
)


class GMMXLNetForQA(PreTrainedModel):
    """XLNet with a memory and a span head.

    `forward` reads a document segment by segment: the kind of memory named by `config.memory_type` encodes each with
    what it holds and is updated (`GatedRecurrence`, `CacheRecurrence`, `BankRecurrence`), and the head takes its logits
    from the hidden states. Without memory all segments are read at once.

    Build it from a `GMMXLNetConfig`, or around an encoder: `GMMXLNetForQA(base_model=xlnet, num_experts=4,
    memory_slots=16)` copies the weights of a `transformers.XLNetForQuestionAnsweringSimple` and adds 2·m memory tokens
    to its vocabulary. `use_gmm_memory=False` leaves the memory out; one expert is token memory; `memory_type` names any
    kind.
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
            memory.setdefault("memory_type", ("token" if num_experts == 1 else "gmm") if use_gmm_memory else "none")
            config = extended_config(
                base_model.config, num_memory_experts=num_experts, memory_slots=memory_slots, **memory
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
        elif config.memory_type == "differentiable":
            self.memory_bank = MemoryBank(config)
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
        elif isinstance(module, MemoryBank):
            module.reset_parameters(std=std, norm=std * self.config.d_model**0.5)

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
                f"Model does not have memory_mixture attribute: its memory_type is {self.config.memory_type}; "
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
        memory_state: State | None = None,
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
            start_positions, end_positions: (B, S) labels, `<cls>` where the segment does not hold the answer, negative
                where there is no segment.
            memory_state: the state to start from, in the order of the rows; the learned initial memories when left out.
            memory_ablation: `normal`; `zeroed`: the encoder is given an empty memory; `reset`: each segment starts from
                the initial memory; `shuffled`: each document is handed what document `memory_permutation[row]` has in
                memory, and each goes on with its own.
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
        segments = active_segments(num_segments, *(x[order_B] for x in (input_ids, attention_mask, token_type_ids)))
        if self.config.memory_type == "none":
            readings, state = self._read_alone(segments), None
        else:
            recurrence = self._recurrence(*input_ids.shape[::2])
            readings, state = read_in_turn(
                recurrence,
                segments,
                recurrence.start(len(order_B)) if memory_state is None else memory_state.rows(order_B),
                ablation=memory_ablation,
                donor_B=None if memory_permutation is None else rank_B[memory_permutation[order_B]],
                bptt_segments=self.config.bptt_segments,
            )
            state = state.rows(rank_B)
        output = self._output(
            segments, readings, state, order_B, rank_B, input_ids.shape[:2], start_positions, end_positions
        )
        if single:
            for name in ("start_logits", "end_logits", "routing_probs", "routing_logits"):
                if name in output:
                    output[name] = output[name].squeeze(1)
        return output

    def answer(self, question: str | Sequence[str], document: str | Sequence[str], **options: Any) -> Any:
        """The answer to a question about a text of any length, as `gmmxlnet.evaluation.answering.answer` gives it."""
        from gmmxlnet.evaluation.answering import answer  # evaluation is built on models

        return answer(self, question, document, **options)

    def _read_alone(self, segments: list[Segment]) -> list[Reading]:
        """Encode all segments of all documents in one batch: without memory none waits for another."""
        ids, mask, types = (
            torch.cat([getattr(segment, name) for segment in segments])
            for name in ("input_ids_nL", "attention_mask_nL", "token_type_ids_nL")
        )
        L = ids.shape[1]
        hidden_NLd = self.encoder(self.encoder.word_embedding(ids), mask, types, self.encoder.position_keys(L, L))
        return [Reading(hidden) for hidden in hidden_NLd.split([segment.num_documents for segment in segments])]

    def _recurrence(self, num_documents: int, length: int) -> Recurrence:
        """The memory for one call, with what all segments share computed once."""
        config = self.config
        if config.memory_type == "mems":
            return CacheRecurrence(config, self.encoder, length=length)
        if config.memory_type == "differentiable":
            return BankRecurrence(self.encoder, self.memory_bank, length=length)
        kept_Bk = None
        if self.training and config.expert_dropout > 0:
            kept_Bk = draw_kept_experts(num_documents, config.num_memory_experts, config.expert_dropout, self.device)
        return GatedRecurrence(
            config,
            self.encoder,
            self.expert_mixture,
            self.routing_network if config.memory_type == "gmm" else None,
            self.expert_updater,
            self.memory_reader,
            length=length,
            kept_Bk=kept_Bk,
        )

    def _output(
        self,
        segments: list[Segment],
        readings: list[Reading],
        state: State | None,
        order_B: Tensor,
        rank_B: Tensor,
        shape: tuple[int, int],
        start_positions: Tensor | None,
        end_positions: Tensor | None,
    ) -> GMMXLNetOutput:
        logits = [self.qa_head(reading.hidden_nLd) for reading in readings]  # (n, L, 2) each
        start_BSL, end_BSL = padded(logits, shape)[rank_B].unbind(-1)
        output = GMMXLNetOutput(start_logits=start_BSL, end_logits=end_BSL, memory_state=state)
        if self.config.memory_type == "gmm":
            output.routing_probs = padded([reading.routing.probs_Bk for reading in readings], shape)[rank_B]
            output.routing_logits = padded([reading.routing.logits_Bk for reading in readings], shape)[rank_B]
            self.last_routing_probs = output.routing_probs.detach()
        if start_positions is not None and end_positions is not None:
            positions = (start_positions[order_B], end_positions[order_B])
            parts = self._loss_parts(segments, readings, logits, positions)
            output.loss = self._weighted(parts)
            output.loss_parts = {name: part.detach() for name, part in parts.items()}
        return output

    def _loss_parts(
        self,
        segments: list[Segment],
        readings: list[Reading],
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
                    padded(boundary_logits, labels_BS.shape),
                    labels_BS,
                    padded(candidates, labels_BS.shape),
                    padded(cls, labels_BS.shape),
                )
            else:
                labels_N = torch.cat([labels_BS[: segment.num_documents, s] for s, segment in enumerate(segments)])
                span = span + losses.segment_span_loss(torch.cat(boundary_logits), labels_N, torch.cat(candidates))
        parts = {"span": span / 2}
        if self.config.memory_type == "gmm":
            probs = [reading.routing.probs_Bk for reading in readings]
            parts["load_balance"] = losses.load_balance_loss(probs)
            parts["entropy"] = routing_entropy(torch.cat(probs)).mean()
        if readings[0].read_nmd is not None and self.config.memory_reconstruction_weight > 0:
            speaker = self.memory_reader if self.config.has_memory_tokens else self.memory_bank
            parts["reconstruction"] = losses.reconstruction_loss(
                speaker.as_embeddings(torch.cat([reading.read_nmd for reading in readings])),
                self.encoder.word_embedding.weight[: self.config.read_token_id],
                torch.cat([segment.input_ids_nL for segment in segments]),
                torch.cat(content),
                speaker.norm,
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

    def _content(self, segment: Segment) -> Tensor:
        """Which tokens are the document's own: neither structure, question, memory nor padding. (n, L) bool."""
        return (
            segment.attention_mask_nL.bool()
            & (segment.token_type_ids_nL == 0)
            & (segment.input_ids_nL < self.config.read_token_id)
            & (segment.input_ids_nL != self.config.sep_token_id)
        )
