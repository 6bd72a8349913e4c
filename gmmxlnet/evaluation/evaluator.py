"""`QAEvaluator`: reads every segment of every document and scores the answers.

    evaluator = QAEvaluator(model, tokenizer)
    results = evaluator.evaluate(dataset)                      # {"exact_match": …, "f1": …, …}

or in steps: `predict` on the calibration and the reported documents, `choose_threshold` on the former, `ablate` on the
latter, then `assemble_metrics`. With several processes (`accelerate launch`), each reads its share of the batches and
receives all answers. Shapes: B documents of a batch, S segments, L tokens, D documents of a dataset.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.segments import SegmentLayout
from gmmxlnet.data.tokenizer import base_vocabulary_size
from gmmxlnet.errors import ConfigError
from gmmxlnet.evaluation.metrics import assemble_metrics
from gmmxlnet.evaluation.predictions import Predictions, Questions
from gmmxlnet.evaluation.running_score import RunningScore
from gmmxlnet.evaluation.spans import BestSpans, best_spans, merge_spans, null_scores
from gmmxlnet.evaluation.threshold import ThresholdChoice
from gmmxlnet.models.attention import length_multiple
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.gmm_xlnet_qa import MEMORY_ABLATIONS, GMMXLNetForQA
from gmmxlnet.models.memories.routing_ablation import LEARNED, routing_ablations
from gmmxlnet.models.outputs import GMMXLNetOutput
from gmmxlnet.models.shared_readings import read_ablated
from gmmxlnet.utils.processes import Processes
from gmmxlnet.utils.progress import Progress

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "num_segments")
SEGMENTS_AT_ONCE = 1024  # of a document; a longer one is read in portions


@dataclass(frozen=True)
class Ablation:
    """A change to the model for one evaluation pass; no change by default."""

    name: str = ""
    memory_ablation: str = "normal"
    routing_ablation: str = LEARNED

    @property
    def needs_donors(self) -> bool:
        """Whether each document receives the memory or routing of another one."""
        return self.name == "shuffled"

    @property
    def described(self) -> str:
        """Description for progress lines, e.g. `memory zeroed`; empty without a change."""
        what = "routing" if self.routing_ablation != LEARNED else "memory"
        return f"{what} {self.name}" if self.name else ""


def longest_first(documents: Questions) -> np.ndarray:
    """(D,) document indices, longest first: batches are homogeneous, and out-of-memory errors occur at the start."""
    return np.lexsort((documents.num_tokens(), documents.num_segments()))[::-1]


def rows_with_other_contexts(context_B: np.ndarray) -> np.ndarray:
    """(B,) for each row, the index of a row with a different context; a permutation if possible.

    Rows sorted by context are shifted by the size of the largest group. If one context has more than half of the
    rows, its rows share those of the others. At least two contexts are required.
    """
    order = np.argsort(context_B, kind="stable")
    contexts, counts = np.unique(context_B, return_counts=True)
    donors = np.roll(order, -counts.max())
    same = context_B[order] == context_B[donors]
    others = np.flatnonzero(context_B != contexts[counts.argmax()])
    donors[same] = np.resize(others, same.sum())
    return donors[np.argsort(order)]


def with_donor(rows_B: np.ndarray, order_D: np.ndarray, context_D: np.ndarray) -> np.ndarray:
    """Adds a document if all rows share one context: the nearest in `order_D` with another context."""
    elsewhere = np.flatnonzero(context_D[order_D] != context_D[rows_B[0]])
    if np.any(context_D[rows_B] != context_D[rows_B[0]]):
        return rows_B
    here = np.flatnonzero(order_D == rows_B[0])[0]
    return np.append(rows_B, order_D[elsewhere[np.abs(elsewhere - here).argmin()]])


def context_mask(batch: dict[str, Tensor], num_write_tokens: int) -> Tensor:
    """(B,S,L) bool mask of the context tokens, which come first; write tokens and a `<sep>` also have type 0."""
    mask_BSL = batch["attention_mask"].bool()
    num_context_BS1 = ((batch["token_type_ids"] == 0) & mask_BSL).sum(-1, keepdim=True) - num_write_tokens - 1
    from_left_BSL = mask_BSL.cumsum(-1)  # 1 at the segment's first token
    return mask_BSL & (from_left_BSL <= num_context_BS1)


def check_fit(config: GMMXLNetConfig, tokenizer: PreTrainedTokenizerBase, layout: SegmentLayout) -> None:
    """Raises ConfigError unless model, tokenizer and documents agree on the ids of words and memory tokens."""
    words = base_vocabulary_size(tokenizer)
    if words != layout.vocab_size:
        raise ConfigError(
            f"the documents were made with a tokenizer of {layout.vocab_size} tokens, this one has {words}; "
            "give the tokenizer that lies with the chunks"
        )
    made_for = (layout.vocab_size, layout.memory_num_tokens)
    expected = (config.read_token_id, config.memory_num_tokens)
    if (config.has_memory_tokens and made_for != expected) or words > config.vocab_size:
        raise ConfigError(
            f"the documents were made for {made_for[0]} tokens and {made_for[1]} memory slots, the model for "
            f"{expected[0]} and {expected[1]}; give it the documents of its own experiment"
        )


class QAEvaluator:
    """Finds and scores the answers of a model.

    Args:
        model: a `GMMXLNetForQA`; moved to `device` if one is given, and run in eval mode.
        tokenizer: the documents' own, with or without memory tokens; a mismatch raises ConfigError.
        n_best_size: spans kept for each document.
        max_answer_length: maximum answer length in tokens.
        batch_size: documents per batch.
        device: the model's device by default.
        autocast_dtype: bfloat16 or float16 for mixed precision; None for the model's own.
        show_progress: exact match so far (with a threshold of 0), tokens per second, time left.
    """

    def __init__(
        self,
        model: GMMXLNetForQA,
        tokenizer: PreTrainedTokenizerBase,
        n_best_size: int = 20,
        max_answer_length: int = 30,
        batch_size: int = 16,
        device: str | torch.device | None = None,
        autocast_dtype: torch.dtype | None = None,
        show_progress: bool = False,
    ) -> None:
        self.model = model if device is None else model.to(device)
        self.tokenizer = tokenizer
        self.n_best_size, self.max_answer_length, self.batch_size = n_best_size, max_answer_length, batch_size
        self.autocast_dtype = autocast_dtype
        self.processes = Processes.current()
        self.show_progress = show_progress and self.processes.is_main

    def evaluate(
        self, dataset: Any, threshold: ThresholdChoice | float = 0.0, memory_ablations: bool = False
    ) -> dict[str, Any]:
        """Computes the figures of `reports/metrics.json` for `Documents` or a `ChunkedSquadDataset`.

        Args:
            threshold: null odds above which a question counts as unanswerable; `choose_threshold` finds one.
            memory_ablations: also score the model without its memory, and a mixture with other routing.
        """
        normal = self.predict(getattr(dataset, "documents", dataset))
        choice = threshold if isinstance(threshold, ThresholdChoice) else ThresholdChoice(threshold)
        if not memory_ablations:
            return assemble_metrics(normal, choice, {})
        return assemble_metrics(normal, choice, *self.ablate_both(normal))

    def predict(self, documents: Questions) -> Predictions:
        """Computes the n best spans and the null score of every document, over all its segments."""
        D, N = len(documents), self.n_best_size
        empty = Predictions(
            documents=documents,
            first_token=np.zeros((D, N), np.int64),
            last_token=np.zeros((D, N), np.int64),
            segment=np.zeros((D, N), np.int64),
            start_logit=np.full((D, N), -np.inf),
            end_logit=np.full((D, N), -np.inf),
            null_start_logit=np.zeros(D),
            null_end_logit=np.zeros(D),
            null_segment=np.zeros(D, np.int64),
        )
        return self._read(empty, longest_first(documents), Ablation())

    def ablate(self, normal: Predictions) -> dict[str, Predictions | None]:
        """Answers the same documents with the memory `zeroed`, `shuffled` and `reset`.

        For a model without memory, `normal` itself is returned for each. Single-segment documents are not read again if
        the ablation only affects what is passed between segments. `shuffled` is None if all documents share one
        context, since there is no other memory to use.
        """
        return self.ablate_both(normal, routing=False)[0]

    def ablate_routing(self, normal: Predictions) -> dict[str, Predictions | None]:
        """Answers the same documents with each alternative routing (`RoutingAblation`); empty without a router.

        Routing only affects later segments, so single-segment documents are not read again. `shuffled` is None if all
        documents share one context.
        """
        return self.ablate_both(normal, memory=False)[1]

    def ablate_both(
        self, normal: Predictions, *, memory: bool = True, routing: bool = True
    ) -> tuple[dict[str, Predictions | None], dict[str, Predictions | None]]:
        """Returns `ablate` and `ablate_routing`, the same bits in less time: what the readings share is read once."""
        config = self.model.config
        memories = [Ablation(name, memory_ablation=name) for name in MEMORY_ABLATIONS if memory and name != "normal"]
        routings = []
        if routing and config.has_router:
            names = routing_ablations(config.num_memory_experts)[1:]
            routings = [Ablation(name, routing_ablation=name) for name in names]
        if not config.kind.carries:
            return {ablation.name: normal for ablation in memories}, {}
        found: dict[Ablation, Predictions | None] = {}
        has_donors = len(np.unique(normal.context_indices())) > 1
        together = [one for one in memories + routings if one.name != "zeroed" and (has_donors or not one.needs_donors)]
        order_D = longest_first(normal.documents)
        several_D = order_D[normal.documents.num_segments()[order_D] > 1]
        found |= zip(together, self._read_all(normal, several_D, together), strict=True)
        for zeroed in (one for one in memories if one.name == "zeroed"):
            reset = next(one for one in memories if one.name == "reset")
            found[zeroed] = found[reset] if config.kind.starts_empty else self._read(normal, order_D, zeroed)
        return {one.name: found.get(one) for one in memories}, {one.name: found.get(one) for one in routings}

    def _read(self, before: Predictions, rows_D: np.ndarray, ablation: Ablation) -> Predictions:
        """Returns `before` with the documents `rows_D` read again, `batch_size` at a time."""
        return self._read_all(before, rows_D, [ablation])[0]

    def _read_all(self, before: Predictions, rows_D: np.ndarray, ablations: Sequence[Ablation]) -> list[Predictions]:
        """Returns for each ablation `before` with the documents `rows_D` read again."""
        if not ablations:
            return []
        names = [field.name for field in fields(before) if field.name != "documents"]
        columns = [{name: getattr(before, name).copy() for name in names} for _ in ablations]
        check_fit(self.model.config, self.tokenizer, before.documents.layout)
        order_D, context_D = longest_first(before.documents), before.context_indices()
        was_training = self.model.training
        self.model.eval()
        batches = [rows_D[first : first + self.batch_size] for first in range(0, len(rows_D), self.batch_size)]
        own = self.processes.share(batches)
        so_far = None
        if self.show_progress:
            described = ablations[0].described if len(ablations) == 1 else "ablations"
            so_far = RunningScore(replace(before, **columns[0]), sum(map(len, own)), described)
        try:
            for rows_B in own:
                donors_B = rows_B
                if any(ablation.needs_donors for ablation in ablations):
                    donors_B = with_donor(rows_B, order_D, context_D)
                num_tokens = 0
                for ablation, found, tokens in self._answers(before.documents, rows_B, donors_B, context_D, ablations):
                    num_tokens += tokens
                    for name, values in found.items():
                        columns[ablations.index(ablation)][name][rows_B] = values[: len(rows_B)].cpu().numpy()
                if so_far is not None:
                    so_far.add(rows_B, num_tokens)
        finally:
            if so_far is not None:
                so_far.progress.close()
            self.model.train(was_training)
        for each in columns:
            self._share(each, rows_D, own)
        return [replace(before, **each) for each in columns]

    def _answers(
        self,
        documents: Questions,
        rows_B: np.ndarray,
        donors_B: np.ndarray,
        context_D: np.ndarray,
        ablations: Sequence[Ablation],
    ) -> Iterator[tuple[Ablation, dict[str, Tensor], int]]:
        """Yields for each ablation the columns of `Predictions` for documents `rows_B`, and how many tokens it read.

        `donors_B` are the rows, with another one after them where all are about one context. Ablations that need that
        one are read apart, so that the others' batch does not depend on it.
        """
        config = self.model.config
        collate = DocumentCollator(
            layout=documents.layout,
            memory_tokens=config.has_memory_tokens,
            pad_to_multiple_of=length_multiple(self.model.device),
        )
        apart = [one for one in ablations if one.needs_donors and len(donors_B) > len(rows_B)]
        together = [one for one in ablations if one not in apart]
        for group, read_B in [(together, rows_B), *(([one], donors_B) for one in apart)]:
            if not group:
                continue
            read = [documents[int(i)] for i in read_B]
            if not group[0].name and len(read[0].segments) > SEGMENTS_AT_ONCE:
                answers = [self._answer_in_portions(document, collate) for document in read]
                found = {name: torch.cat([answer[name] for answer in answers]) for name in answers[0]}
                yield group[0], found, int(documents.num_tokens()[rows_B].sum())
                continue
            batch = collate(read)
            num_tokens = int(batch["attention_mask"].sum())
            if any(one.needs_donors for one in group):
                batch["memory_permutation"] = torch.from_numpy(rows_with_other_contexts(context_D[read_B]))
            if len(group) == 1:
                yield group[0], self._answer(batch, group[0])[0], num_tokens
                continue
            for one, found in zip(group, self._answer_together(batch, group), strict=True):
                yield one, found, num_tokens

    def _share(self, columns: dict[str, np.ndarray], rows_D: np.ndarray, own: Sequence[np.ndarray]) -> None:
        """Combines the results of all processes by summation; each contributes zeros for rows it has not read."""
        if self.processes.count == 1:
            return
        others = np.setdiff1d(rows_D, np.concatenate([np.empty(0, np.int64), *own]))
        for values in columns.values():
            values[others] = 0
            values[rows_D] = self.processes.sum(torch.from_numpy(values[rows_D]).to(self.model.device)).cpu().numpy()

    def _answer_in_portions(self, document: Any, collate: DocumentCollator) -> dict[str, Tensor]:
        """Computes the columns of `Predictions` for a long document; memory use does not grow with its length.

        The memory's state goes from portion to portion, so the answers are those of reading it at once.
        """
        found, state, total = None, None, len(document.segments)
        with Progress("answer", total, "segments") as progress:
            for first in range(0, total, SEGMENTS_AT_ONCE):
                portion = replace(document, segments=document.segments[first : first + SEGMENTS_AT_ONCE], label=None)
                batch = collate([portion])
                columns, state = self._answer(batch, Ablation(), state)
                columns |= {name: columns[name] + first for name in ("segment", "null_segment")}
                found = columns if found is None else self._merged(found, columns)
                progress.advance(len(portion.segments), int(batch["attention_mask"].sum()))
        assert found is not None  # a document has at least one segment
        return found

    def _merged(self, one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
        """Combines the columns of two portions of a document, `one` the earlier segments."""
        names = [field.name for field in fields(BestSpans)]
        earlier, later = (BestSpans(*(columns[name] for name in names)) for columns in (one, other))
        spans = vars(merge_spans(earlier, later, self.n_best_size, self.max_answer_length))
        scores = [columns["null_start_logit"] + columns["null_end_logit"] for columns in (one, other)]
        is_later = scores[1] < scores[0]  # the lowest null score counts, as in `null_scores`
        nulls = [name for name in one if name.startswith("null_")]
        return {**spans, **{name: torch.where(is_later, other[name], one[name]) for name in nulls}}

    @torch.inference_mode()
    def _answer(self, batch: dict[str, Tensor], ablation: Ablation, state: Any = None) -> tuple[dict[str, Tensor], Any]:
        """Computes the columns of `Predictions` for one batch, and the state of the memory after it."""
        batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        with self._autocast():
            output = self.model(
                **{name: batch[name] for name in MODEL_INPUTS},
                memory_ablation=ablation.memory_ablation,
                routing_ablation=ablation.routing_ablation,
                memory_permutation=batch.get("memory_permutation"),
                memory_state=state,
            )
        return self._columns(batch, output), output.memory_state

    @torch.inference_mode()
    def _answer_together(self, batch: dict[str, Tensor], ablations: Sequence[Ablation]) -> list[dict[str, Tensor]]:
        """Computes the columns of `Predictions` for one batch and each of these ablations (`read_ablated`)."""
        batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        of_memory = [one for one in ablations if one.routing_ablation == LEARNED]
        of_routing = [one for one in ablations if one.routing_ablation != LEARNED]
        with self._autocast():
            outputs = read_ablated(
                self.model,
                {name: batch[name] for name in MODEL_INPUTS},
                memory=[one.memory_ablation for one in of_memory],
                routing=[one.routing_ablation for one in of_routing],
                memory_permutation=batch.get("memory_permutation"),
            )
        found = dict(zip([*of_memory, *of_routing], [*outputs[0], *outputs[1]], strict=True))
        return [self._columns(batch, found[one]) for one in ablations]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def _columns(self, batch: dict[str, Tensor], output: GMMXLNetOutput) -> dict[str, Tensor]:
        assert output.start_logits is not None
        assert output.end_logits is not None
        start_BSL, end_BSL = output.start_logits.float(), output.end_logits.float()
        active_BS = batch["attention_mask"].any(-1)
        null_start, null_end, null_segment = null_scores(start_BSL[..., -1], end_BSL[..., -1], active_BS)
        spans = best_spans(
            start_BSL,
            end_BSL,
            context_mask(batch, self.model.config.memory_num_tokens),
            batch["segment_offsets"],
            self.n_best_size,
            self.max_answer_length,
        )
        nulls = {"null_start_logit": null_start, "null_end_logit": null_end, "null_segment": null_segment}
        return {**vars(spans), **nulls}
