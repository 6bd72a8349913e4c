"""Replaces the routing at evaluation to measure the router's contribution: a mixture that loses nothing under `uniform`
routing uses its experts as one memory.

Shapes: B documents, n documents that have a segment, k experts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gmmxlnet.errors import ConfigError

LEARNED = "learned"
WITHOUT = "without_expert_"


def routing_ablations(num_experts: int) -> tuple[str, ...]:
    """Return all names: `learned`, `uniform`, `shuffled`, `hardened`, and `without_expert_j` for each expert."""
    return (LEARNED, "uniform", "shuffled", "hardened", *(f"{WITHOUT}{j}" for j in range(num_experts)))


@dataclass(frozen=True)
class RoutingAblation:
    """Replaces the probabilities with which experts are written and read, in both routing modes.

    name: `learned`: unchanged; `uniform`: 1/k each; `shuffled`: those of another document at the same step;
        `hardened`: 1 for the most probable expert; `without_expert_j`: 0 for expert j, the others renormalized (equal
        if they are all 0), so that expert j is neither written nor read.
    donor_B: int64, for `shuffled`: for each row in reading order, the row whose routing it uses. If that document has
        ended, row (donor mod n), which is still being read, is used.

    Raises ConfigError for an unknown name, or `shuffled` without donors.
    """

    name: str
    num_experts: int
    donor_B: Tensor | None = None

    def __post_init__(self) -> None:
        known = routing_ablations(self.num_experts)
        if self.name not in known or (self.name == "shuffled" and self.donor_B is None):
            raise ConfigError(
                f"routing_ablation must be one of {', '.join(known)} (shuffled with memory_permutation), "
                f"not {self.name!r}"
            )

    @property
    def readable_k(self) -> Tensor:
        """Experts (k,) bool that may be read: all but one that is left out."""
        return torch.tensor([self.name != f"{WITHOUT}{j}" for j in range(self.num_experts)])

    def __call__(self, probs_nk: Tensor) -> Tensor:
        """Map the probabilities (n, k) of one step to those that replace them."""
        n, k = probs_nk.shape
        if self.name == "uniform":
            return torch.full_like(probs_nk, 1 / k)
        if self.donor_B is not None and self.name == "shuffled":
            return probs_nk[self.donor_B[:n] % n]
        if self.name == "hardened":
            return torch.zeros_like(probs_nk).scatter_(1, probs_nk.argmax(1, keepdim=True), 1)
        if self.name.startswith(WITHOUT):
            others_k = torch.ones(k, dtype=probs_nk.dtype, device=probs_nk.device)
            others_k[int(self.name.removeprefix(WITHOUT))] = 0
            left_nk = probs_nk * others_k
            total_n1 = left_nk.sum(1, keepdim=True)
            return torch.where(total_n1 > 0, left_nk / total_n1, others_k / (k - 1))
        return probs_nk
