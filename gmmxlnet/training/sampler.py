"""Batch sampler: a keyed permutation of (seed, epoch, index), bucketed by length.

It has no state to store or replay: batch n of epoch e is a function of the seed.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

POOL_BATCHES = 32  # batches whose documents are sorted together; larger pools pad less and shuffle less


class DocumentBatchSampler(Sampler[list[int]]):
    """Yields batches of documents of similar length in random order.

    Each epoch permutes the documents, sorts pools of them by number of segments and then of tokens, splits the pools
    into batches and permutes the batches, which limits padding while batches and their order change every epoch.
    """

    def __init__(self, num_segments: np.ndarray, num_tokens: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__()
        self.num_segments, self.num_tokens = num_segments, num_tokens
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.drop_last = False  # required by accelerate

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.num_segments) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        shuffled = rng.permutation(len(self.num_segments))
        pool_size = POOL_BATCHES * self.batch_size
        batches: list[np.ndarray] = []
        for first in range(0, len(shuffled), pool_size):
            pool = shuffled[first : first + pool_size]
            pool = pool[np.lexsort((self.num_tokens[pool], self.num_segments[pool]))]
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        for i in rng.permutation(len(batches)):
            yield batches[i].tolist()
