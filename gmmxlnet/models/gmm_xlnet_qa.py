"""`GMMXLNetForQA`: extractive question answering over long documents, read segment by segment with a memory.

Shapes: B documents, S segments, L tokens of a segment, N segments of all documents, k experts, m slots, d hidden size.
Documents are sorted by their number of segments, so that those still being read are always the first rows of the batch.
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
from gmmxlnet.models.memory_targets import MemoryTargets, content_of
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

ROWS_TOGETHER = 64  # segments that a model without memory encodes at once outside training


class GMMXLNetForQA(PreTrainedModel):
    """XLNet with a memory and a span head.

    `forward` reads a document segment by segment: the recurrence of the memory selected by `config.memory_type`
    (`gmmxlnet.models.memories`) encodes each segment together with the memory's contents and updates the memory, and
    the head computes logits from the hidden states. Without memory all segments are read at once.

    Build it from a `GMMXLNetConfig`, or around an encoder: `GMMXLNetForQA(base_model=xlnet, num_experts=4,
    memory_slots=16)` copies the weights of a `transformers.XLNetForQuestionAnsweringSimple` and adds 2·m memory tokens
    to its vocabulary. `use_gmm_memory=False` builds a model without memory, `num_experts=1` one with token memory;
    `memory_type` selects any kind.
    """

    config_class = GMMXLNetConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # `forward` accepts extra keywords, but not those of the Trainer
    supports_gradient_checkpointing = True
    gradient_checkpointing = False  # transformers' switch: recompute each segment's activations in the backward pass

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
    def from_pretrained(  # type: ignore[override]  # transformers accepts more, and initializes missing weights at random
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
        """Load a trained model from a folder or a Hub id, in evaluation mode, with strict checks.

        Args:
            revision, subfolder, cache_dir, token, local_files_only, force_download: as in transformers.
            use_safetensors: False reads an older `pytorch_model.bin`, with `weights_only`; nothing else is unpickled.
            dtype: dtype to cast to; defaults to the stored one.
            base_model: for an adapter's checkpoint, the folder or Hub id of the model that it was trained on; defaults
                to the environment variable GMMXLNET_BASE_MODEL, then to the checkpoint's own entry.
            asked: properties that the checkpoint must have (`memory_type="gmm"`, `num_experts=4`, ...), and settings
                that further training may change: dropout, loss weights, `routing_temperature`, `bptt_segments`.

        Raises CheckpointError; `gmmxlnet.models.checkpoint` lists the checks.
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
        """Save config.json, the weights (safetensors), checkpoint.json, and the tokenizer that the model came with.

        A tokenizer that lies in the folder already is left as it is. See `gmmxlnet.models.checkpoint`.

        Args:
            is_main_process: only the main process writes.
            state_dict: tensors to save instead of the model's own.
            max_shard_size: largest size of one file of weights, in bytes or as "5GB".
            push_to_hub: push the model afterwards; `hub` are the arguments of `push_to_hub`.

        Raises CheckpointError.
        """
        if not is_main_process:
            return
        save_model(self, save_directory, state_dict=state_dict, max_shard_size=max_shard_size)
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", Path(save_directory).name), **hub)

    @classmethod
    def adopt(cls, folder: str | Path, *, base_model: str | None = None) -> None:
        """Write a new manifest for a checkpoint that was edited on purpose; inconsistent files are refused.

        Args:
            base_model: as in `from_pretrained`.

        Raises CheckpointError.
        """
        adopt(cls, folder, base_model=base_model)

    @classmethod
    def is_custom_code(cls) -> bool:
        """Return False, so that `_init_weights` is called for every module.

        In custom code transformers skips modules without parameters of their own, such as the router and the updater.
        """
        return False

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize like XLNet, and memory modules by their own method; children are initialized before parents."""
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
        """The word embeddings, including those of the memory tokens."""
        return self.encoder.word_embedding

    @property
    def memory_mixture(self) -> GatedMemoryMixture:
        """The experts' initial memories, under the name that docs/guide.md uses."""
        return self.expert_mixture

    def __getattr__(self, name: str) -> Any:
        """Like torch's, but explains why `memory_mixture` is missing; called when the property has failed."""
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
            input_ids: int64 ids, padded on the left. attention_mask: 1 for tokens, 0 for padding; defaults to all 1.
            token_type_ids: XLNet's segment ids (context 0, question 1, `<cls>` 2, padding 3); defaults to zeros, which
                disables XLNet's segment attention.
            num_segments: (B,) number of segments of each document; defaults to the count in the mask.
            start_positions, end_positions: (B, S) labels; the position of `<cls>` if the segment does not contain the
                answer, negative if the document has no such segment.
            memory_state: the state to start from, in the order of the rows; defaults to the learned initial memories.
            memory_ablation: `normal`; `zeroed`: the encoder reads an empty memory; `reset`: each segment starts from
                the initial memory; `shuffled`: each document reads the memory of document `memory_permutation[row]`,
                but continues with its own.
            routing_ablation: for a mixture, `learned` or a replacement of its routing (`RoutingAblation`); `shuffled`
                uses the documents of `memory_permutation`.
            active_documents: (S,) for a batch shared by several processes (`shared_batch`): the number of documents of
                all processes that have each segment. Every process must call; the loss is this process's share, and no
                other output has a gradient.
            segment_offsets: (B, S) index in the context of each segment's first context token, so that words in the
                overlap of two windows do not count as recurring; without it no overlap is assumed.
            _metadata: further entries of a batch, which are ignored.

        Raises: ConfigError for an unknown ablation, `shuffled` without a permutation, or a routing without a router.
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
            targets = self.memory_targets(documents.segments, active_documents)
            parts = self.loss_parts(documents.segments, kept, targets, active_documents)
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
        """Answer a question about a text of any length; returns a list of answers if either argument is a list.

        Args:
            threshold: null odds above which the result is no answer. n_best: number of candidates to return.
            batch_size: (question, document) pairs per batch.
            layout: tokenizer, max_answer_length, precision, max_seq_length, doc_stride, as in
                `gmmxlnet.evaluation.answering.answer`, which this calls.

        Raises DataError, ConfigError, CheckpointError.
        """
        from gmmxlnet.evaluation.answering import answer  # imported lazily: evaluation imports models

        return answer(self, question, document, threshold=threshold, n_best=n_best, batch_size=batch_size, **layout)

    def start_reading(self, documents: SortedDocuments) -> tuple[Recurrence[Any] | None, State | None]:
        """Return the recurrence for these documents and the state before the first segment; None without memory."""
        B = len(documents.order_B)
        recurrence = self.memory.recurrence(self, B, documents.segments[0].input_ids_nL.shape[1])
        return recurrence, recurrence and recurrence.start(B)

    def read_segments(
        self, segments: list[Segment], recurrence: Recurrence[Any] | None, state: State | None, **how: Any
    ) -> tuple[list[Kept], State | None]:
        """Read these segments starting from `state`; `how` are further arguments of `read_in_turn`."""
        if recurrence is None:
            return self._read_alone(segments), None
        keep_memory = self._asks_memory and segments[0].labels_n2 is not None
        how |= {"keep_memory": keep_memory, "recompute": self._recomputes}
        return read_in_turn(recurrence, segments, state, head=self.qa_head, **how)

    @property
    def _recomputes(self) -> bool:
        return self.gradient_checkpointing and self.training and torch.is_grad_enabled()

    def _read_alone(self, segments: list[Segment]) -> list[Kept]:
        """Encode the segments of all documents together, since without memory they are independent.

        Without gradients at most `ROWS_TOGETHER` are encoded at once, which bounds the memory used for long documents;
        with gradient checkpointing, as many as there are documents.
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
        """Collect the results of all segments in the order of the batch's rows; the caller sets the loss."""
        rank_B, shape = documents.rank_B, documents.shape
        start_BSL, end_BSL = padded([one.logits_nL2 for one in kept], shape)[rank_B].unbind(-1)
        output = GMMXLNetOutput(start_logits=start_BSL, end_logits=end_BSL)
        output.memory_state = None if state is None else state.rows(rank_B)
        if kept[0].routing is not None:
            output.routing_probs = padded([one.routing.probs_Bk for one in kept], shape)[rank_B]
            output.routing_logits = padded([one.routing.logits_Bk for one in kept], shape)[rank_B]
            self.last_routing_probs = output.routing_probs.detach()
        return output

    def memory_targets(self, segments: list[Segment], active_documents: Tensor | None = None) -> MemoryTargets | None:
        """Return what the losses ask of the memory after each segment of whole documents; None without such a loss.

        `active_documents` is as in `forward`.
        """
        speaker = self.memory.speaker(self)
        if speaker is None or not self._asks_memory:
            return None
        shared = {} if active_documents is None else {"sum_over_processes": Processes.current().sum}
        return MemoryTargets.of(segments, self.config, self._word_vectors, speaker.norm, **shared)

    @property
    def _asks_memory(self) -> bool:
        """Whether a loss asks the memory for words, and the memory has a speaker that can be asked."""
        asks = self.config.memory_reconstruction_weight > 0 or self.config.memory_association_weight > 0
        return asks and self.memory.speaker(self) is not None

    @property
    def _word_vectors(self) -> Tensor:
        """Embeddings (V, d) of the words, without those of the memory tokens."""
        return self.encoder.word_embedding.weight[: self.config.read_token_id]

    def loss_parts(
        self,
        segments: list[Segment],
        kept: list[Kept],
        targets: MemoryTargets | None,
        active_documents: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the unweighted loss terms: means over these segments (over documents for span loss `document`).

        Args:
            segments, kept: some segments of the batch's documents, and what `read_segments` returned for them.
            targets: `memory_targets` of all segments. active_documents: as in `forward`.
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
        if targets is not None and kept[0].read_nmd is not None:
            vectors_Nmd = speaker.as_embeddings(torch.cat([one.read_nmd for one in kept]))
            scores_NmV = losses.slot_scores(
                vectors_Nmd, self._word_vectors, speaker.norm, self.config.memory_word_sharpness
            )
            parts |= targets.losses(segments, vectors_Nmd, scores_NmV)
        if active_documents is not None:
            parts = share_of_loss(parts, segments, active_documents, self.config.span_loss)
        return parts

    def weighted(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of these loss terms, all or some."""
        weight = {
            "span": 1.0,
            "load_balance": self.config.load_balance_weight,
            "entropy": -self.config.entropy_regularization_weight,
            "reconstruction": self.config.memory_reconstruction_weight,
            "association": self.config.memory_association_weight,
        }
        return sum(weight[name] * part for name, part in parts.items())
