"""Our own choices, without a peer: compiled layers, gradient checkpointing, experts, segments."""

import copy

from benchmarks.gpu.setup import Setup, training_step, working
from benchmarks.timing import Bar, Figure, figure, in_turns, mebibytes, milliseconds, peak_bytes, ratios


def options(setup: Setup) -> list[Figure]:
    """What compiling our layers gives with a memory, and what computing activations again costs."""
    batch = setup.batch(B=max(1, setup.batch_size // 4), S=4, memory_tokens=True)
    plain = setup.memory_model(memory_type="gmm", num_memory_experts=4, memory_slots=setup.slots)
    models = {
        "plain": plain,
        "compiled": setup.compile_layers(copy.deepcopy(plain)),
        "recomputed": copy.deepcopy(plain),
    }
    models["recomputed"].gradient_checkpointing = True
    steps = {name: training_step(setup, model, [batch]) for name, model in models.items()}
    steps = working(steps, ("compiled",))
    taken = in_turns({name: setup.several(step) for name, step in steps.items()}, setup.fewer_repeats, warm_up=1)
    peaks = {name: peak_bytes(step, *models.values()) for name, step in steps.items()}
    what = {"batch": len(batch["input_ids"]), "segments": 4, **setup.milliseconds_a_step(taken)}
    figures = [
        figure(
            "GPU time of a step with gradient checkpointing against one without",
            ratios(taken["recomputed"], taken["plain"]),
            Bar(at_most=1.4),
            **what,
            **mebibytes(peaks),
        )
    ]
    if "compiled" in taken:
        figures.append(
            figure(
                "GPU time of a step with compiled layers against one without, four segments",
                ratios(taken["compiled"], taken["plain"]),
                Bar(at_least=0.95),  # less, and compiling becomes an option
                **what,
            )
        )
    return figures


def experts(setup: Setup) -> list[Figure]:
    """Documents of two segments, with 2 to 8 experts, against none with as many tokens."""
    B = max(1, setup.batch_size // 2)
    runs = {"none": training_step(setup, setup.ours(), [setup.batch(B=B, S=2, memory_tokens=False)])}
    batch, names = setup.batch(B=B, S=2, memory_tokens=True), {}
    for mode in ("write-based", "read-based"):
        for k in (2, 8) if setup.quick else (2, 4, 8):
            model = setup.memory_model(
                memory_type="gmm", num_memory_experts=k, memory_slots=setup.slots, routing_mode=mode
            )
            name = f"gmm_{k}_{mode.removesuffix('-based')}"
            runs[name], names[name] = training_step(setup, model, [batch]), f"k = {k}, {mode}"
    taken = in_turns({name: setup.several(step) for name, step in runs.items()}, setup.fewer_repeats, warm_up=1)
    return [
        figure(
            f"GPU gmm {said}: time of a step against none",
            ratios(taken[name], taken["none"]),
            Bar(at_most=1.05),
            **setup.milliseconds_a_step({each: taken[each] for each in ("none", name)}),
        )
        for name, said in names.items()
    ]


def segments(setup: Setup) -> list[Figure]:
    """Time of a segment of documents with S segments against one of documents with one."""
    model = setup.memory_model(memory_type="gmm", num_memory_experts=4, memory_slots=setup.slots)
    counts = (1, 2) if setup.quick else (1, 2, 4, 8, 16)
    B = max(1, setup.batch_size // 16)
    runs = {str(S): training_step(setup, model, [setup.batch(B=B, S=S, memory_tokens=True)]) for S in counts}
    taken = in_turns(runs, setup.fewer_repeats, warm_up=1)
    return [
        figure(
            f"GPU cost per segment, S = {S} against S = 1",
            [many.wall / (S * one.wall) for many, one in zip(taken[str(S)], taken["1"], strict=True)],
            Bar(at_most=1.1),
            batch=B,
            **milliseconds(taken),
        )
        for S in counts[1:]
    ]
