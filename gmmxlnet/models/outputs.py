"""The output class of `GMMXLNetForQA`."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from gmmxlnet.models.recurrence import State


@dataclass
class GMMXLNetOutput(ModelOutput):
    """Logits of every segment of every document, and the state and routing of the memory.

    For one segment (inputs of shape (B, L)) the S dimension is absent.

    loss: scalar, if labels were given; loss_parts: its unweighted terms, detached scalars by name.
    start_logits, end_logits: (B, S, L); zeros in segments that a document does not have.
    memory_state: the state after each document's last segment; None without memory.
    routing_probs, routing_logits: (B, S, k) float32 (float64 in a float64 model), zeros in segments that a document
        does not have; None without a router.
    """

    loss: Tensor | None = None
    loss_parts: dict[str, Tensor] | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    memory_state: State | None = None
    routing_probs: Tensor | None = None
    routing_logits: Tensor | None = None
