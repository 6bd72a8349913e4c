"""`GMMAnalyzer`: how a model routes the segments of a dataset, and what the routing tells about them.

    analyzer = GMMAnalyzer(model)
    stats = analyzer.track_routing(dataloader)        # batches of documents, or of a ChunkedSquadDataset
    analyzer.compute_expert_diversity(); analyzer.compute_routing_consistency(); analyzer.pattern()

Shapes: B documents, S segments, N segments of all documents together, k experts, m slots, d hidden size.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmmxlnet.analysis.records import ExpertMemoryState, RoutingProbabilities
from gmmxlnet.analysis.routing import (
    RoutingPattern,
    RoutingSettings,
    RoutingTable,
    mutual_information,
    routing_consistency,
    routing_pattern,
)
from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.documents import Documents
from gmmxlnet.errors import ConfigError
from gmmxlnet.evaluation.evaluator import MODEL_INPUTS, longest_first
from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA
from gmmxlnet.models.losses import routing_entropy

Labels = Sequence[str | None]  # one a document, by its index in the dataset; None: not marked


class GMMAnalyzer:
    """Records the routing of a model with experts over a dataset and describes it.

    Args:
        model: moved to `device` if given.

    Raises:
        ConfigError: the model has no experts to route to.
    """

    def __init__(self, model: GMMXLNetForQA, device: str | torch.device | None = None) -> None:
        if not model.config.has_router:
            raise ConfigError(
                f"Model does not have memory_mixture attribute with experts to route to (its memory_type is "
                f"{model.config.memory_type}); build it with use_gmm_memory=True and 2 to 8 experts, or load a gmm "
                "checkpoint"
            )
        self.model = model if device is None else model.to(device)
        self.routing_data: list[RoutingProbabilities] = []

    @torch.inference_mode()
    def track_routing(self, dataloader: Iterable[dict[str, Tensor]], max_segments: int | None = None) -> dict[str, Any]:
        """Run the model on batches, store every segment's routing in `routing_data`, and summarize it.

        Each call starts from empty `routing_data`.

        Args:
            dataloader: batches from a `DocumentCollator`.
            max_segments: stop after this many segments.

        Returns:
            `expert_utilization` (each expert's mean probability over segments), `mean_entropy`, `std_entropy` (nats),
            `total_segments`.
        """
        self.routing_data = []
        left = max_segments
        was_training = self.model.training
        self.model.eval()
        try:
            for batch in dataloader:
                for record in self._records(batch, left):
                    self.routing_data.append(record)
                    left = None if left is None else left - len(record.entropy)
                if left == 0:
                    break
        finally:
            self.model.train(was_training)
        return self.summary(RoutingTable.of(self.routing_data))

    def _records(self, batch: dict[str, Tensor], limit: int | None) -> Iterable[RoutingProbabilities]:
        """One record per segment index of a batch, over the documents that have it; at most `limit` segments."""
        output = self.model(**{name: batch[name].to(self.model.device) for name in MODEL_INPUTS})
        probs_BSk, logits_BSk = output.routing_probs.cpu(), output.routing_logits.cpu()
        for s in range(probs_BSk.shape[1]):
            rows = torch.nonzero(batch["num_segments"].cpu() > s)[:limit, 0]
            if len(rows) == 0:
                return
            limit = None if limit is None else limit - len(rows)
            probs_nk = probs_BSk[rows, s]
            yield RoutingProbabilities(
                segment_id=s,
                routing_logits=logits_BSk[rows, s],
                routing_probs=probs_nk,
                entropy=routing_entropy(probs_nk),
                top_expert_idx=probs_nk.argmax(-1),
                document_index=batch["document_index"][rows],
            )

    @staticmethod
    def summary(table: RoutingTable) -> dict[str, Any]:
        """Utilization, entropy and number of segments of a table."""
        return {
            "expert_utilization": table.probs.mean(0).tolist(),
            "mean_entropy": float(table.entropy.mean()),
            "std_entropy": float(table.entropy.std()),
            "total_segments": len(table),
        }

    @property
    def table(self) -> RoutingTable:
        """The tracked segments, ordered by document."""
        return RoutingTable.of(self.routing_data)

    def compute_expert_diversity(self) -> np.ndarray:
        """(k,k) float64 cosine similarity of the experts' initial memories, each flattened to (m·d,)."""
        memories = torch.stack([expert.detach().flatten() for expert in self.model.memory_mixture.expert_memories])
        unit = torch.nn.functional.normalize(memories.double().cpu(), dim=-1)
        return (unit @ unit.T).numpy()

    def compute_routing_consistency(self) -> float:
        """Share of a document's neighboring segments with the same top expert, averaged over documents; NaN if none."""
        return routing_consistency(self.table)

    def load_balance_variance(self) -> float:
        """Variance of utilization over experts; 0 is even, above 0.05 is imbalanced (docs/guide.md)."""
        return float(self.table.probs.mean(0).var())

    def pattern(self) -> RoutingPattern:
        """Which pattern of docs/guide.md the tracked routing shows, and what to try next."""
        config = self.model.config
        settings = RoutingSettings(
            temperature=config.routing_temperature,
            load_balance_weight=config.load_balance_weight,
            entropy_weight=config.entropy_regularization_weight,
        )
        stats = self.summary(self.table)
        return routing_pattern(
            np.array(stats["expert_utilization"]),
            stats["mean_entropy"],
            stats["std_entropy"],
            self.compute_expert_diversity(),
            self.compute_routing_consistency(),
            settings,
        )

    def expert_states(self) -> list[ExpertMemoryState]:
        """Each expert's initial memory with its usage over the tracked segments."""
        table, mixture = self.table, self.model.memory_mixture
        return [
            ExpertMemoryState(
                expert_id=j,
                memory_state=memory.detach().cpu(),
                usage_stats={
                    "mean_probability": float(table.probs[:, j].mean()),
                    "top_share": float((table.top_expert == j).mean()),
                },
                initialization_strategy=self.model.config.expert_init_strategies[j],
            )
            for j, memory in enumerate(mixture.expert_memories)
        ]

    def by_label(self, labels: Labels) -> dict[str, dict[str, Any]]:
        """`summary` for each label (such as a question type), over the segments of the documents that carry it."""
        table = self.table
        label_N = np.array(labels, dtype=object)[table.document]
        return {
            label: self.summary(table.rows(label_N == label))
            for label in sorted({label for label in label_N if label is not None})
        }

    def information_about(self, labels: Labels, contexts: Sequence[int]) -> dict[str, Any] | None:
        """`mutual_information` of top expert and label, over all segments and per segment index; None without labels.

        Args:
            contexts: each document's context, by its index in the dataset.
        """
        table = self.table
        label_N = np.array(labels, dtype=object)[table.document]
        marked = np.array([label is not None for label in label_N])
        if not marked.any():
            return None
        table, label_N = table.rows(marked), label_N[marked].astype(str)
        context_N = np.array(contexts)[table.document]

        def information(chosen: np.ndarray) -> dict[str, Any]:
            return mutual_information(table.top_expert[chosen], label_N[chosen], context_N[chosen])

        by_segment = {str(s): information(table.segment == s) for s in np.unique(table.segment)}
        return {**information(np.ones(len(table), bool)), "by_segment": by_segment}

    def report(self, documents: Documents, batch_size: int = 16) -> dict[str, Any]:
        """Track the routing over all documents and return the contents of `reports/routing.json`."""
        collate = DocumentCollator(layout=documents.layout, memory_tokens=True)
        order = longest_first(documents).tolist()
        batches = (order[first : first + batch_size] for first in range(0, len(order), batch_size))
        stats = self.track_routing(collate([documents[i] for i in rows]) for rows in batches)
        everything, consistency, pattern = range(len(documents)), self.compute_routing_consistency(), self.pattern()
        return {
            **stats,
            "top_expert_share": [state.usage_stats["top_share"] for state in self.expert_states()],
            "load_balance_variance": self.load_balance_variance(),
            "expert_diversity": self.compute_expert_diversity().tolist(),
            "routing_consistency": None if math.isnan(consistency) else consistency,
            "by_question_type": self.by_label([documents.question_type(i) for i in everything]),
            "condition_information": self.information_about(
                [documents.condition(i) for i in everything], [documents.context_index(i) for i in everything]
            ),
            "pattern": pattern.name,
            "pattern_observation": pattern.observation,
            "pattern_advice": pattern.advice,
            "note": None,
        }


def no_routing_report(memory_type: str) -> dict[str, Any]:
    """`reports/routing.json` of a model without a router: the same keys with null, and the reason."""
    keys = (
        *("expert_utilization", "mean_entropy", "std_entropy", "total_segments", "top_expert_share"),
        *("load_balance_variance", "expert_diversity", "routing_consistency", "by_question_type"),
        *("condition_information", "pattern", "pattern_observation", "pattern_advice"),
    )
    return {**dict.fromkeys(keys), "note": f"memory_type {memory_type} has no experts to choose from"}
