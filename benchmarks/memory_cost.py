"""What eight experts cost: the time of a training step with gmm, k = 8, over that with `token`, on the same batch.

    python -m benchmarks.memory_cost                # a table; about ten minutes on one core
    python -m benchmarks.memory_cost --sizes sample --pairs 30

Both models live in one process and take steps in turns, first one, then the other first. Each pair gives a ratio; shown
are their median and quartiles. On a CPU the clock is that of the process, which the machine's other work does not
move much; on a GPU that on the wall, after synchronizing. A step is forward, backward, clipping, AdamW.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.synthetic import random_batch, random_model

SIZES = {
    "sample": (
        {"d_model": 128, "n_layer": 3, "n_head": 8, "d_inner": 256},
        {"B": 32, "S": 3, "L": 56},
        (4,),
    ),
    "medium": (
        {"d_model": 256, "n_layer": 4, "n_head": 8, "d_inner": 1024},
        {"B": 4, "S": 3, "L": 384},
        (4, 16),
    ),
    "base": (
        {"d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072},
        {"B": 16, "S": 3, "L": 384},
        (4, 16),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["sample", "medium"], help="base is for a GPU")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--mode", default="write-based", choices=("write-based", "read-based"))
    parser.add_argument("--reconstruction", type=float, default=1.0, help="memory_reconstruction_weight of both")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    for size in arguments.sizes:
        keys, shape, slot_counts = SIZES[size]
        for slots in slot_counts:
            common = {"slots": slots, "memory_reconstruction_weight": arguments.reconstruction, **keys}
            token, gmm = (
                stepper(memory_type, shape, arguments.device, **common, **routing)
                for memory_type, routing in (("token", {}), ("gmm", {"k": 8, "routing_mode": arguments.mode}))
            )
            report(f"{size}, m = {slots}", *compare(token, gmm, arguments.pairs, arguments.device))


def stepper(memory_type: str, shape: dict[str, int], device: str, **keys: object) -> Callable[[], None]:
    """A function that takes one training step on always the same batch."""
    model = random_model(memory_type, **keys).to(device).train()
    batch = {name: tensor.to(device) for name, tensor in random_batch(model.config, **shape).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def compare(
    one: Callable[[], None], other: Callable[[], None], num_pairs: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each step of one and of the other, taken in turns after two steps each to warm up."""
    for step in (one, other) * 2:
        seconds(step, device)
    pairs = np.zeros((num_pairs, 2))
    for i in range(num_pairs):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            pairs[i, which] = seconds((one, other)[which], device)
    return pairs[:, 0], pairs[:, 1]


def seconds(step: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    step()
    return time.process_time() - start


def report(name: str, token: np.ndarray, gmm: np.ndarray) -> None:
    low, middle, high = np.percentile(gmm / token, [25, 50, 75])
    print(
        f"{name}: token {1000 * np.median(token):.0f} ms, gmm k = 8 {1000 * np.median(gmm):.0f} ms a step; "
        f"ratio {middle:.3f} (quartiles {low:.3f} to {high:.3f}, {len(token)} pairs)",
        flush=True,
    )


if __name__ == "__main__":
    main()
