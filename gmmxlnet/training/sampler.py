"""Which documents make up which batch: a keyed permutation of (seed, epoch, index), bucketed by length.

Nothing is stored and nothing replayed: batch n of epoch e is a function of the seed alone.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

POOL_BATCHES = 32  # documents of so many batches are sorted together; larger pads less and shuffles less


class DocumentBatchSampler(Sampler[list[int]]):
    """Batches of documents of like length in random order.

    Each epoch permutes the documents, sorts pools of them by number of segments and then of tokens, cuts the pools into
    batches and permutes the batches, so that a batch is padded little while neither its mates nor its place are fixed.
    """

    def __init__(self, num_segments: np.ndarray, num_tokens: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__()
        self.num_segments, self.num_tokens = num_segments, num_tokens
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.drop_last = False  # accelerate asks

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration walks through."""
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
