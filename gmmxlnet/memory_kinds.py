"""The kinds of memory by name, without importing torch: what parameters, names of runs and command lines need to know.

    KINDS["gmm"].tokens            # facts
    KINDS["gmm"].load()            # its class, a `gmmxlnet.models.memories.Memory`

A kind is added by its file in `gmmxlnet/models/memories/` and its line in `KINDS`. A package of your own adds one by an
entry point of the group `gmmxlnet.memories` that names a `MemoryKind`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmmxlnet.models.memories import Memory

PLUGINS = "gmmxlnet.memories"  # the group of entry points
MIN_EXPERTS, MAX_EXPERTS = 2, 8  # of a mixture
_BUILT_IN = "gmmxlnet.models.memories."


@dataclass(frozen=True, kw_only=True)
class MemoryKind:
    """Facts about a kind of memory, and where its class is."""

    implementation: str
    """`module:class`, imported by `load`."""
    carries: bool = True
    """Whether anything travels from segment to segment; False only without memory."""
    slots: bool = True
    """Whether it has `memory_slots`."""
    tokens: bool = False
    """Whether every segment has read and write tokens for it, one of each a slot."""
    caches: bool = False
    """Whether it keeps the last `mem_len` tokens."""
    starts_empty: bool = False
    """Whether a document's first memory is the empty one, so that `zeroed` at every segment is `reset`."""
    experts: tuple[int, int] = (0, 0)
    """Least and most experts."""

    def load(self) -> "type[Memory]":
        """The class."""
        module, _, name = self.implementation.partition(":")
        loaded: type[Memory] = getattr(import_module(module), name)
        return loaded

    @property
    def routes(self) -> bool:
        """Whether a router chooses among several experts."""
        return self.experts[1] > 1

    def num_experts(self, asked: int) -> int:
        """k of this kind where `num_memory_experts` is `asked`: as asked where there is a choice."""
        least, most = self.experts
        return asked if least < most else least

    def num_token_ids(self, num_slots: int) -> int:
        """How many ids the memory's tokens take at the end of the vocabulary."""
        return 2 * num_slots if self.tokens else 0


class Kinds(Mapping[str, MemoryKind]):
    """The kinds of memory by name: those of this package, then those that installed packages add.

    Another package's module is imported when its kind is first looked up, not before: it is built on this package.
    """

    def __init__(self, built_in: Mapping[str, MemoryKind]) -> None:
        self._known = dict(built_in)
        found = entry_points(group=PLUGINS)
        self._plugins = {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}

    def __getitem__(self, name: str) -> MemoryKind:
        if name not in self._known and name in self._plugins:
            self._known[name] = self._plugins[name].load()
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._known, **self._plugins})

    def __len__(self) -> int:
        return len({**self._known, **self._plugins})


KINDS = Kinds(
    {
        "none": MemoryKind(implementation=_BUILT_IN + "none:NoMemory", carries=False, slots=False),
        "mems": MemoryKind(implementation=_BUILT_IN + "mems:SegmentCache", slots=False, caches=True, starts_empty=True),
        "words": MemoryKind(implementation=_BUILT_IN + "words:WordMemory", slots=False, caches=True, starts_empty=True),
        "token": MemoryKind(implementation=_BUILT_IN + "gated:GatedMemory", tokens=True, experts=(1, 1)),
        "differentiable": MemoryKind(implementation=_BUILT_IN + "differentiable:BankMemory"),
        "gmm": MemoryKind(
            implementation=_BUILT_IN + "gated:GatedMixtureMemory", tokens=True, experts=(MIN_EXPERTS, MAX_EXPERTS)
        ),
    }
)


def run_name(parameters: Mapping[str, Any]) -> str:
    """A short name for a memory with these parameters, such as `gmm-k4-write`."""
    name = str(parameters["memory_type"])
    if not KINDS[name].routes:
        return name
    return f"{name}-k{parameters['num_memory_experts']}-{str(parameters['routing_mode']).removesuffix('-based')}"
