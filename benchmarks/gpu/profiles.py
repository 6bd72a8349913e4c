"""Which kernels take a training step's time on the device: `profile.md`, to explain a figure that misses its bar."""

import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from benchmarks.gpu.kernels import ALIGNED, FUSED, TRITON, attention_by, has_triton
from benchmarks.gpu.setup import Setup, Step, flat, training_step
from gmmxlnet.utils.files import atomic_file
from gmmxlnet.utils.tables import markdown_table

STEPS, TOP, LONGEST_NAME = 3, 12, 100
PRODUCTS = ("aten::bmm", "aten::mm", "aten::addmm")
SYNCHRONIZATIONS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::item")


def write_profile(setup: Setup, folder: Path) -> None:
    """Profile a few steps of ours, of ours with each other kind of attention, and of transformers, eager."""
    batch = setup.batch(B=setup.batch_size, S=1, memory_tokens=False)
    parts = [f"# Training steps by kernel\n\nBatch {setup.batch_size} of {setup.length} tokens, {STEPS} steps each."]
    kinds = {"ours": FUSED, "ours, aligned attention": ALIGNED, "ours, Triton attention": TRITON}
    for name, attention in {**kinds, "transformers, eager": None}.items():
        if attention == TRITON and not has_triton(setup):
            continue
        model, inputs = (setup.theirs(), flat(batch)) if attention is None else (setup.ours(), batch)
        with attention_by(attention or ""):
            parts.append(f"## {name}\n\n{_profile(setup, training_step(setup, model, [inputs]))}")
    with atomic_file(folder / "profile.md") as scratch:
        scratch.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _profile(setup: Setup, step: Step) -> str:
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if setup.on_gpu else [])
    for _ in range(2):
        step()
    _wait(setup)
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    _wait(setup)
    wall = (time.perf_counter() - begin) / STEPS
    with torch.profiler.profile(activities=activities, record_shapes=True, acc_events=True) as profile:
        for _ in range(STEPS):
            step()
        _wait(setup)
    events = list(profile.key_averages())
    on_device = [event for event in events if _is_kernel(event)] if setup.on_gpu else events
    busy = max(sum(map(_seconds, on_device)) / STEPS, 1e-12)
    waits = {name: sum(e.count for e in events if e.key == name) / STEPS for name in SYNCHRONIZATIONS}
    said = ", ".join(f"{name} {count:g}" for name, count in waits.items() if count) or "none"
    launches = sum(event.count for event in on_device) / STEPS
    return (
        f"{1000 * wall:.2f} ms a step without the profiler, of which kernels run {1000 * busy:.2f} ms; {launches:.0f} "
        f"kernels a step. Calls a step that may wait for the device: {said}.\n\n{_table(on_device, busy)}\n\n"
        f"Matrix products by the shapes of their factors:\n\n{_products(profile, busy)}"
    )


def _products(profile: Any, busy: float) -> str:
    """Which products a kernel's time is spent on, which its name does not tell."""
    events = [event for event in profile.key_averages(group_by_input_shape=True) if event.key in PRODUCTS]
    return _table(events, busy, shapes=True)


def _table(events: list[Any], busy: float, *, shapes: bool = False) -> str:
    top = sorted(events, key=_seconds, reverse=True)[:TOP]
    return markdown_table(
        pd.DataFrame(
            {
                "kernel": [_named(event, shapes) for event in top],
                "calls a step": [f"{event.count / STEPS:.4g}" for event in top],
                "ms a step": [f"{1000 * _seconds(event) / STEPS:.3f}" for event in top],
                "share": [f"{_seconds(event) / STEPS / busy:.1%}" for event in top],
            }
        )
    )


def _named(event: Any, shapes: bool) -> str:
    factors = " x ".join(str(shape) for shape in event.input_shapes if len(shape) > 1) if shapes else ""
    return f"{event.key} {factors}".strip().replace("|", "/")[:LONGEST_NAME]


def _is_kernel(event: Any) -> bool:
    """Not the ranges that torch marks, such as a step of the optimizer: their kernels are listed themselves."""
    marked = getattr(event, "is_user_annotation", False) or event.key.startswith(("Optimizer.", "ProfilerStep"))
    return event.device_type == DeviceType.CUDA and not marked


def _seconds(event: Any) -> float:
    """A kernel's own time; on a CPU an operation's."""
    microseconds = event.self_device_time_total or event.self_cpu_time_total
    return float(microseconds) / 1e6


def _wait(setup: Setup) -> None:
    if setup.on_gpu:
        torch.cuda.synchronize()
