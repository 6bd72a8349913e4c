"""Peak memory against the number of segments of a document: evaluated, and trained in three ways.

    python -m benchmarks.memory           # writes reports/memory.csv and reports/memory.png; four minutes on one core

Every figure is that of a process of its own: on a CPU how much its resident memory rose above what it was with the
model built, on a GPU what torch had allocated at most beyond the model. Inputs, logits and gradients are counted.
"""

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from benchmarks.synthetic import random_batch, random_model
from gmmxlnet.analysis.plots import save_figure
from gmmxlnet.evaluation.spans import best_spans, null_scores
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.training.bptt import backward_in_chunks
from gmmxlnet.utils.tables import write_csv

SIZE = {"d_model": 128, "n_layer": 2, "n_head": 8, "d_inner": 512}
DOCUMENTS, LENGTH, SLOTS, BPTT = 2, 128, 4, 2
SEGMENTS = (1, 2, 4, 8, 16, 32, 64)
MODES = {
    "evaluate": "evaluation",
    "train": "training, gradients through all segments",
    "train_recompute": "training, gradient_checkpointing",
    "train_bptt": f"training, bptt_segments {BPTT}",
}
STYLES = {"evaluate": ("o", ":"), "train": ("s", "-"), "train_recompute": ("D", "-."), "train_bptt": ("^", "--")}
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder for memory.csv and memory.png")
    parser.add_argument("--memory-type", default="gmm")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--segments", type=int, nargs="+", default=list(SEGMENTS))
    parser.add_argument("--one", nargs=2, metavar=("MODE", "S"), help="measure this alone, in this process; prints MiB")
    arguments = parser.parse_args()
    if arguments.one:
        mode, num_segments = arguments.one
        print(measure(mode, int(num_segments), arguments.memory_type, arguments.device))
        return
    rows = []
    for S in arguments.segments:
        rows.append({"segments": float(S)} | {mode: in_a_process(mode, S, arguments) for mode in MODES})
        print("  ".join(f"{name} {value:g}" for name, value in rows[-1].items()), flush=True)
    table = pd.DataFrame(rows).rename(columns={mode: f"{mode}_mib" for mode in MODES})
    write_csv(arguments.out / "memory.csv", table, line_terminator="\r\n")
    save_figure(plot(rows, arguments.device), arguments.out / "memory.png")


def in_a_process(mode: str, num_segments: int, arguments: argparse.Namespace) -> float:
    """`measure` in a fresh interpreter: what one figure leaves behind must not be in the next."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", mode, str(num_segments)]
    command += ["--memory-type", arguments.memory_type, "--device", arguments.device]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(mode: str, num_segments: int, memory_type: str, device: str) -> float:
    """MiB that a batch needs at most, beyond the model."""
    bptt = BPTT if mode == "train_bptt" else None
    model = random_model(memory_type, slots=SLOTS, **SIZE, bptt_segments=bptt).to(device)
    model.gradient_checkpointing = mode == "train_recompute"
    before = peak(device)
    work(mode, model, num_segments, device)
    return round((peak(device) - before) / MIB, 1)


def peak(device: str) -> int:
    """The most memory so far, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def work(mode: str, model: GMMXLNetForQA, num_segments: int, device: str) -> None:
    """One batch, evaluated or trained on."""
    batch = random_batch(model.config, B=DOCUMENTS, S=num_segments, L=LENGTH)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    if mode == "evaluate":
        labels = ("start_positions", "end_positions")
        with torch.inference_mode():
            output = model.eval()(**{name: tensor for name, tensor in batch.items() if name not in labels})
            context = (batch["token_type_ids"] == 0) & (batch["input_ids"] < model.config.read_token_id)
            first_token = torch.arange(num_segments, device=device).expand(DOCUMENTS, -1) * LENGTH
            best_spans(output.start_logits, output.end_logits, context, first_token)
            null_scores(output.start_logits[..., -1], output.end_logits[..., -1], batch["attention_mask"].any(-1))
    elif mode == "train_bptt" and num_segments > BPTT:
        backward_in_chunks(model.train(), batch)
    else:
        model.train()(**batch).loss.backward()


def plot(rows: list[dict[str, float]], device: str) -> Figure:
    """Lines told apart by mark and stroke."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    segments = [row["segments"] for row in rows]
    for mode, label in MODES.items():
        marker, line = STYLES[mode]
        axes.plot(segments, [row[mode] for row in rows], marker=marker, linestyle=line, color="#1b2a41", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(segments, [f"{S:g}" for S in segments])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set(
        title=f"Peak memory of a batch on a {'GPU' if device == 'cuda' else 'CPU'}, beyond the model",
        xlabel=f"segments of each of {DOCUMENTS} documents, {LENGTH} tokens each",
        ylabel="MiB",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
