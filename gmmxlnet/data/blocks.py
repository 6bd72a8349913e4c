"""Builds blocks of documents in this process or in several, and returns them in their order."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from gmmxlnet.data.selection import Asked
from gmmxlnet.data.store import BuiltSplit
from gmmxlnet.errors import DataError

MOST_DOCUMENTS = 20_000  # of a block
MOST_CHARACTERS = 10_000_000  # of its contexts: it takes a few hundred MB while it is built
Built = tuple[str, int, BuiltSplit]  # the split, how many documents it was built from, and what they became


def cut_into_blocks(documents: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Yields documents in their order, as many at once as are built at once."""
    block: list[Asked] = []
    num_characters, last = 0, ""
    for passage, question in documents:
        block.append((passage, question))
        num_characters += 0 if passage.text is last else len(passage.text)
        last = passage.text
        if len(block) == MOST_DOCUMENTS or num_characters >= MOST_CHARACTERS:
            yield block
            block, num_characters, last = [], 0, ""
    if block:
        yield block


def build_blocks(
    blocks: Iterable[tuple[str, list[Asked]]], make: Callable[..., BuiltSplit], num_workers: int
) -> Iterator[Built]:
    """Yields what `make` builds of each block, in order, in so many processes beside this one.

    Raises DataError if a worker is killed.
    """
    if not num_workers:
        for name, documents in blocks:
            yield name, len(documents), make(documents, drop_unlabeled=name == "train")
        return
    # Started anew: tokenizers' threads do not survive a fork.
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), _begin, (make,))
    waiting: deque[tuple[str, int, Future[BuiltSplit]]] = deque()
    try:
        for name, documents in blocks:
            waiting.append((name, len(documents), pool.submit(_build, documents, name == "train")))
            if len(waiting) > 2 * num_workers:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    except BrokenProcessPool:
        raise DataError("a process that tokenizes was killed, perhaps for want of memory; lower num_workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _next(waiting: deque[tuple[str, int, Future[BuiltSplit]]]) -> Built:
    name, num_documents, future = waiting.popleft()
    return name, num_documents, future.result()


def _begin(make: Callable[..., BuiltSplit]) -> None:
    """In a worker: what it makes blocks with. The processes are the threads; the first process ends them on Ctrl-C."""
    global _make
    _make = make
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _build(documents: list[Asked], drop_unlabeled: bool) -> BuiltSplit:
    return _make(documents, drop_unlabeled=drop_unlabeled)


_make: Callable[..., BuiltSplit]
