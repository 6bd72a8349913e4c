"""`make bench-gpu`: the figures that need a GPU, in bfloat16 at the size of xlnet-base; one function per family.

python -m benchmarks.gpu [--families NAME ...] [--repeats 6] [--out reports/gpu] [--quick]

Every family is written when it ends, and the same command again takes only those that are missing.
"""

FIGURES = {  # each family, in the order in which they are taken, and what it measures
    "correctness": "fused attention, and its aligned form, against float64 on the card",
    "training": "training and encoder against transformers, eager and compiled, on one padded batch; peak memory",
    "triton-correctness": "the Triton kernel against float64 on the card",
    "attention": "aligned attention and the Triton kernel against fused attention: alone, a training step, memory",
    "profile": "the kernels that take most of a training step",
    "experts": "k = 2, 4, 8 in both routing modes against none",
    "segments": "cost per segment, S = 1 … 16",
    "determinism": "the deterministic mode's price",
    "utilization": "model FLOPs utilization",
    "flex": "FlexAttention against fused attention: time and memory",
    "options": "compiled layers, and gradient checkpointing, against a plain step",
    "lengths": "training on documents of realistic lengths against transformers' best form",  # compiles longest
}
EXTRA = {  # only where asked for: half a minute to two
    "compiled-attention": "aligned attention against fused attention in compiled layers",
    "whole": "transformers compiled as a whole instead of layer by layer",
}
