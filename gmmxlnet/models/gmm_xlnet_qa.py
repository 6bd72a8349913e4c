"""`GMMXLNetForQA`: reads a document segment by segment, with a memory that travels, and points at the answer.

Shapes: B documents, S segments, L tokens of a segment, N segments of all documents, k experts, m slots, d hidden size.
Documents are sorted by their number of segments, so that those still being read are always the first rows.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, XLNetForQuestionAnsweringSimple
from transformers import initialization as init

from gmmxlnet.errors import ConfigError
from gmmxlnet.models import losses
from gmmxlnet.models.adapters import install_adapter
from gmmxlnet.models.checkpoint import adopt, load_model, save_model
from gmmxlnet.models.configuration import GMMXLNetConfig, check_arguments
from gmmxlnet.models.encoder import RelativeAttention, XLNetEncoder
from gmmxlnet.models.memories import MemoryModule
from gmmxlnet.models.memories.gated import GatedMemoryMixture
from gmmxlnet.models.memories.routing_ablation import LEARNED, RoutingAblation
from gmmxlnet.models.memory_targets import RecurringWords, content_of, word_counts
from gmmxlnet.models.outputs import GMMXLNetOutput
from gmmxlnet.models.recurrence import (
    MEMORY_ABLATIONS,
    Kept,
    Recurrence,
    Segment,
    SortedDocuments,
    State,
    computed_again,
    padded,
    read_in_turn,
    sort_documents,
)
from gmmxlnet.models.shared_batch import choices_of_all, share_of_loss
from gmmxlnet.models.xlnet_weights import convert_xlnet_weights, extended_config
from gmmxlnet.utils.processes import Processes

ROWS_TOGETHER = 64  # segments that a model without memory encodes at once when it is not trained


class GMMXLNetForQA(PreTrainedModel):
    """XLNet with a memory and a span head.

    `forward` reads a document segment by segment: the recurrence of the kind of memory that `config.memory_type` names
    (`gmmxlnet.models.memories`) encodes each segment with what the memory holds and updates it, and the head computes
    logits from the hidden states. Without memory all segments are read at once.

    Build it from a `GMMXLNetConfig`, or around an encoder: `GMMXLNetForQA(base_model=xlnet, num_experts=4,
    memory_slots=16)` copies the weights of a `transformers.XLNetForQuestionAnsweringSimple` and adds 2·m memory tokens
    to its vocabulary. `use_gmm_memory=False` leaves the memory out; one expert is token memory; `memory_type` names any
    kind.
    """

    config_class = GMMXLNetConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # `forward` takes further keywords, but not the Trainer's
    supports_gradient_checkpointing = True
    gradient_checkpointing = (
        False  # transformers' switch: in training, keep no segment's activations, compute them again
    )

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
            check_arguments(num_experts, memory_slots, use_gmm_memory, memory)
            memory.setdefault("memory_type", ("token" if num_experts == 1 else "gmm") if use_gmm_memory else "none")
            config = extended_config(
                base_model.config, num_memory_experts=num_experts, memory_slots=memory_slots, **memory
            )
        super().__init__(config)
        self.encoder = XLNetEncoder(config)
        self.qa_head = nn.Linear(config.d_model, 2)
        self.memory = config.kind.load()(config)
        for name, module in self.memory.modules().items():
            self.add_module(name, module)
        self.last_routing_probs: Tensor | None = None
        self.post_init()
        if base_model is not None:
            convert_xlnet_weights(base_model, self)
        if config.adapter is not None:
            install_adapter(self)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # transformers lets far more pass, and mends it at random
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        subfolder: str = "",
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        use_safetensors: bool = True,
        dtype: torch.dtype | str | None = None,
        base_model: str | None = None,
        output_loading_info: bool = False,
        **asked: Any,
    ) -> Self:
        """A trained model from a folder or a Hub id, in evaluation mode, strictly (`gmmxlnet.models.checkpoint`).

        Args:
            revision, subfolder, cache_dir, token, local_files_only, force_download: as everywhere in transformers.
            use_safetensors: False reads an older `pytorch_model.bin`, with `weights_only`; nothing else is unpickled.
            dtype: to cast to; the stored one when left out.
            base_model: of an adapter's checkpoint: where the model is that it was trained on (a folder or a Hub id), if
                not where the checkpoint or the environment variable GMMXLNET_BASE_MODEL says.
            asked: what the checkpoint has to be (`memory_type="gmm"`, `num_experts=4`, ...: refused where it is not),
                and what training it further may change: dropout, loss weights, `routing_temperature`, `bptt_segments`.

        Raises CheckpointError.
        """
        for name in ("_from_auto", "trust_remote_code", "adapter_kwargs", "_commit_hash"):  # the Auto classes' own
            asked.pop(name, None)
        model = load_model(
            cls,
            pretrained_model_name_or_path,
            asked=asked,
            dtype=dtype,
            use_safetensors=use_safetensors,
            base_model=base_model,
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        empty: list[str] = []
        info = dict.fromkeys(("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"), empty)
        return (model, info) if output_loading_info else model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        push_to_hub: bool = False,
        **hub: Any,
    ) -> None:
        """Write config.json, safetensors and checkpoint.json (`gmmxlnet.models.checkpoint`).

        Args:
            is_main_process: whether this process is the one that writes.
            state_dict: tensors to save instead of the model's own.
            max_shard_size: of one file of weights, in bytes or as "5GB".
            push_to_hub: push the model afterwards; `hub` is what `push_to_hub` takes.

        Raises CheckpointError.
        """
        if not is_main_process:
            return
        save_model(self, save_directory, state_dict=state_dict, max_shard_size=max_shard_size)
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", Path(save_directory).name), **hub)

    @classmethod
    def adopt(cls, folder: str | Path, *, base_model: str | None = None) -> None:
        """Write the manifest of a checkpoint that was edited on purpose, as it stands; what does not fit is refused.

        Args:
            base_model: as in `from_pretrained`.

        Raises CheckpointError.
        """
        adopt(cls, folder, base_model=base_model)

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
        elif isinstance(module, MemoryModule):
            module.initialize(self.config)

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
        routing_ablation: str = LEARNED,
        active_documents: Tensor | None = None,
        segment_offsets: Tensor | None = None,
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
            routing_ablation: of a mixture, `learned` or what replaces its routing (`RoutingAblation`); `shuffled` takes
                the documents of `memory_permutation`.
            active_documents: (S,) of a batch that several processes share (`shared_batch`): how many documents of all
                of them have each segment. Every process must call then; the loss is this one's share, and nothing else
                that is returned has a gradient.
            segment_offsets: (B, S) index in the context of each segment's first context token, so that words which
                two windows share are not taken for recurring ones; without it windows are taken not to overlap.
            _metadata: what else a batch carries for those who read the logits.

        Raises: ConfigError for an unknown ablation, `shuffled` without a permutation, a routing without router.
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
            input_ids, attention_mask, token_type_ids, start_positions, end_positions, segment_offsets = (
                None if x is None else x.unsqueeze(1)
                for x in (input_ids, attention_mask, token_type_ids, start_positions, end_positions, segment_offsets)
            )
        if num_segments is None:
            num_segments = attention_mask.any(-1).sum(-1)
        labels = None if start_positions is None or end_positions is None else (start_positions, end_positions)
        documents = sort_documents(input_ids, attention_mask, token_type_ids, num_segments, labels, segment_offsets)
        donor_B = None if memory_permutation is None else documents.rank_B[memory_permutation[documents.order_B]]
        recurrence, state = self.start_reading(documents)
        if routing_ablation != LEARNED:
            if not self.config.has_router:
                raise ConfigError(
                    f"routing_ablation {routing_ablation}: memory_type {self.config.memory_type} has no router"
                )
            recurrence.reroute = RoutingAblation(routing_ablation, self.config.num_memory_experts, donor_B)
        kept, state = self.read_segments(
            documents.segments,
            recurrence,
            state if memory_state is None else memory_state.rows(documents.order_B),
            ablation=memory_ablation,
            donor_B=donor_B if memory_ablation == "shuffled" else None,
            bptt_segments=self.config.bptt_segments,
        )
        if active_documents is None:
            output = self.output_of(documents, kept, state)
        else:
            output = self.output_of(documents, [one.detach() for one in kept], state and state.detach())
        if labels is not None:
            recurring = self.recurring_words(documents.segments, active_documents)
            parts = self.loss_parts(documents.segments, kept, recurring, active_documents)
            output.loss = self.weighted(parts)
            output.loss_parts = {name: part.detach() for name, part in parts.items()}
        if single:
            for name in ("start_logits", "end_logits", "routing_probs", "routing_logits"):
                if name in output:
                    output[name] = output[name].squeeze(1)
        return output

    def answer(
        self,
        question: str | Sequence[str],
        document: str | Sequence[str],
        *,
        threshold: float = 0.0,
        n_best: int = 5,
        batch_size: int = 8,
        **layout: Any,
    ) -> Any:
        """The answer to a question about a text of any length; a list of answers if either is a list.

        Args:
            threshold: null odds above which there is no answer. n_best: candidates to return.
            batch_size: (question, document) pairs read at a time.
            layout: tokenizer, max_answer_length, max_seq_length, doc_stride, as for
                `gmmxlnet.evaluation.answering.answer`, which this calls.

        Raises DataError, ConfigError, CheckpointError.
        """
        from gmmxlnet.evaluation.answering import answer  # evaluation is built on models

        return answer(self, question, document, threshold=threshold, n_best=n_best, batch_size=batch_size, **layout)

    def start_reading(self, documents: SortedDocuments) -> tuple[Recurrence[Any] | None, State | None]:
        """The memory as these documents are read, and the state before their first segment; None without memory."""
        B = len(documents.order_B)
        recurrence = self.memory.recurrence(self, B, documents.segments[0].input_ids_nL.shape[1])
        return recurrence, recurrence and recurrence.start(B)

    def read_segments(
        self, segments: list[Segment], recurrence: Recurrence[Any] | None, state: State | None, **how: Any
    ) -> tuple[list[Kept], State | None]:
        """Read these segments on from `state`, as `read_in_turn` does; `how` are its further arguments."""
        if recurrence is None:
            return self._read_alone(segments), None
        keep_memory = self._has_reconstruction and segments[0].labels_n2 is not None
        how |= {"keep_memory": keep_memory, "recompute": self._recomputes}
        return read_in_turn(recurrence, segments, state, head=self.qa_head, **how)

    @property
    def _recomputes(self) -> bool:
        return self.gradient_checkpointing and self.training and torch.is_grad_enabled()

    def _read_alone(self, segments: list[Segment]) -> list[Kept]:
        """Encode the segments of all documents together: without memory none waits for another.

        When no gradient is wanted, at most `ROWS_TOGETHER` at once, so that long documents take no more room; when
        activations are computed again, as many as there are documents.
        """
        counts = [segment.num_documents for segment in segments]
        rows = sum(counts) if torch.is_grad_enabled() else ROWS_TOGETHER
        if self._recomputes:
            rows = counts[0]
        ids, mask, types = (
            torch.cat([getattr(segment, name) for segment in segments]).split(rows)
            for name in ("input_ids_nL", "attention_mask_nL", "token_type_ids_nL")
        )
        L = ids[0].shape[1]
        position_keys = self.encoder.position_keys(L, L)

        def logits_of(ids_nL: Tensor, *masks: Tensor) -> Tensor:
            return self.qa_head(self.encoder(self.encoder.word_embedding(ids_nL), *masks, position_keys))

        reads = [partial(logits_of, *inputs) for inputs in zip(ids, mask, types, strict=True)]
        logits = [computed_again(read, ids[0]) if self._recomputes else read() for read in reads]
        return [Kept(logits_nL2) for logits_nL2 in torch.cat(logits).split(counts)]

    def output_of(self, documents: SortedDocuments, kept: list[Kept], state: State | None) -> GMMXLNetOutput:
        """What was kept of all segments in the order of the batch's rows; the loss is left to the caller."""
        rank_B, shape = documents.rank_B, documents.shape
        start_BSL, end_BSL = padded([one.logits_nL2 for one in kept], shape)[rank_B].unbind(-1)
        output = GMMXLNetOutput(start_logits=start_BSL, end_logits=end_BSL)
        output.memory_state = None if state is None else state.rows(rank_B)
        if kept[0].routing is not None:
            output.routing_probs = padded([one.routing.probs_Bk for one in kept], shape)[rank_B]
            output.routing_logits = padded([one.routing.logits_Bk for one in kept], shape)[rank_B]
            self.last_routing_probs = output.routing_probs.detach()
        return output

    def recurring_words(self, segments: list[Segment], active_documents: Tensor | None = None) -> RecurringWords | None:
        """What the memory is to keep of whole documents; None where no loss asks for it.

        `active_documents` is as in `forward`.
        """
        config = self.config
        if config.memory_reconstruction_target != "recurring" or not self._has_reconstruction:
            return None
        if active_documents is None:
            return RecurringWords.of(segments, config)
        return RecurringWords.of(segments, config, Processes.current().sum)

    @property
    def _has_reconstruction(self) -> bool:
        """Whether the memory is asked in training for words, and can tell any."""
        return self.config.memory_reconstruction_weight > 0 and self.memory.speaker(self) is not None

    def loss_parts(
        self,
        segments: list[Segment],
        kept: list[Kept],
        recurring: RecurringWords | None,
        active_documents: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The unweighted parts of the loss on these segments, each a mean over them (`document` over documents).

        Args:
            segments, kept: some segments of the batch's documents, and what was kept of their reading.
            recurring: `recurring_words` of all segments. active_documents: as in `forward`.
        """
        content = [content_of(segment, self.config) for segment in segments]
        cls = [(segment.token_type_ids_nL == 2) & segment.attention_mask_nL.bool() for segment in segments]
        candidates = [a | b for a, b in zip(content, cls, strict=True)]
        shape = (segments[0].num_documents, len(segments))
        span = 0.0
        for boundary in (0, 1):
            logits = [one.logits_nL2[..., boundary] for one in kept]
            labels = [segment.labels_n2[..., boundary] for segment in segments]
            if self.config.span_loss == "document":
                span = span + losses.document_span_loss(
                    padded(logits, shape),
                    padded(labels, shape, fill=-1),
                    padded(candidates, shape),
                    padded(cls, shape),
                )
            else:
                span = span + losses.segment_span_loss(torch.cat(logits), torch.cat(labels), torch.cat(candidates))
        parts = {"span": span / 2}
        if kept[0].routing is not None:
            probs = [one.routing.probs_Bk for one in kept]
            shares = None if active_documents is None else choices_of_all(probs, active_documents)
            parts["load_balance"] = losses.load_balance_loss(probs, shares)
            parts["entropy"] = losses.routing_entropy(torch.cat(probs)).mean()
        speaker = self.memory.speaker(self)
        if speaker is not None and kept[0].read_nmd is not None:
            V = self.config.read_token_id
            if recurring is None:
                targets = [
                    word_counts(segment.input_ids_nL, content_nL, V)
                    for segment, content_nL in zip(segments, content, strict=True)
                ]
            else:
                targets = [recurring.targets(segment.number, segment.num_documents) for segment in segments]
            parts["reconstruction"] = losses.reconstruction_loss(
                speaker.as_embeddings(torch.cat([one.read_nmd for one in kept])),
                self.encoder.word_embedding.weight[:V],
                torch.cat(targets),
                speaker.norm,
            )
        if active_documents is not None:
            parts = share_of_loss(parts, segments, active_documents, self.config.span_loss)
        return parts

    def weighted(self, parts: dict[str, Tensor]) -> Tensor:
        """The loss that these parts, all or some, add up to."""
        weight = {
            "span": 1.0,
            "load_balance": self.config.load_balance_weight,
            "entropy": -self.config.entropy_regularization_weight,
            "reconstruction": self.config.memory_reconstruction_weight,
        }
        return sum(weight[name] * part for name, part in parts.items())
