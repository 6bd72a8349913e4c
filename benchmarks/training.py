"""Training on real paragraphs: the same questions through our batches and model, and the run_qa way through theirs.

Both steps are what a Trainer does: collate, forward, backward, clip, fused AdamW. Both read what is tokenized already.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import datasets
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import run_qa
from benchmarks.inputs import Scale, Texts
from benchmarks.synthetic import pair, xlnet_config
from benchmarks.timing import Bar, Figure, Span, in_turns, milliseconds, time_figure
from gmmxlnet.data.chunks import build_split
from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.documents import Documents
from gmmxlnet.training.sampler import DocumentBatchSampler

BATCHES = 4  # of ours a repeat: short and long ones, as the sampler mixes them
Batches = Callable[[datasets.Dataset, Scale], Iterator[dict[str, Tensor]]]
POOL = 2_048  # questions drawn from the train text, of which each repeat takes other batches


def training_figures(scale: Scale, texts: Texts) -> list[Figure]:
    """Examples a second of `none` against the run_qa way, and against a careful user of transformers."""
    return [
        _figure(scale, texts, "training: examples a second, none against run_qa", Bar(at_least=4), _their_batches),
        _figure(
            scale,
            texts,
            "training: examples a second, none against sorted batches with dynamic padding, both in bf16",
            Bar(at_least=1.5),
            _their_sorted_batches,
            torch.bfloat16,
        ),
    ]


def _figure(
    scale: Scale, texts: Texts, name: str, bar: Bar, their_batches: Batches, dtype: torch.dtype | None = None
) -> Figure:
    """Same size and same questions on both sides; `dtype` is autocast's, None for float32."""
    documents = training_documents(scale, texts)
    questions = run_qa.rows(texts.train, set(documents.texts.question_ids))
    config = xlnet_config(
        d_model=64 if scale.quick else 256, n_layer=1 if scale.quick else 4, vocab_size=len(texts.tokenizer)
    )
    theirs, ours = pair(config)
    our_steps, their_steps = _stepper(ours, dtype), _stepper(theirs, dtype)
    batches = _batches(scale, documents)
    seconds: dict[str, list[Span]] = {"peer": [], "ours": []}
    padded: dict[str, int] = {"peer": 0, "ours": 0}
    for repeat in range(scale.repeats + 1):  # the first warms up
        chosen = list(islice(batches, 2 if scale.quick else BATCHES))
        ids = [documents.question_id(i) for batch in chosen for i in batch]
        features = run_qa.prepare(
            questions.select([questions["id"].index(name) for name in ids]).shuffle(seed=repeat),
            texts.tokenizer,
            make=run_qa.training_features,
            max_length=scale.max_length,
            stride=scale.stride,
        )
        runs = {
            "peer": partial(_run, their_steps, partial(their_batches, features, scale), padded, "peer"),
            "ours": partial(_run, our_steps, partial(_our_batches, chosen, documents), padded, "ours"),
        }
        taken = in_turns(runs, repeats=1, warm_up=0)
        if repeat:
            for side in seconds:
                seconds[side] += taken[side]
        else:
            padded.update(peer=0, ours=0)
    return time_figure(
        name,
        seconds["peer"],
        seconds["ours"],
        bar,
        text=texts.name,
        layers=config.n_layer,
        d_model=config.d_model,
        tokens=scale.max_length,
        stride=scale.stride,
        batch=scale.batch_size,
        tokens_with_padding_peer_over_ours=round(padded["peer"] / padded["ours"], 2),
        **milliseconds(seconds),
    )


def training_documents(scale: Scale, texts: Texts) -> Documents:
    """Questions drawn from the train text, with their segments."""
    documents = [(passage, question) for passage in texts.passages("train") for question in passage.questions]
    count = min(scale.documents or POOL, len(documents))
    drawn = np.random.default_rng(0).choice(len(documents), count, replace=False)
    shape = scale.layout(texts.tokenizer)
    return Documents(
        build_split(
            [documents[i] for i in drawn], texts.tokenizer, shape, 64 if not scale.quick else 12, drop_unlabeled=True
        )
    )


def _batches(scale: Scale, documents: Documents) -> Iterator[list[int]]:
    """Without end."""
    sampler = DocumentBatchSampler(documents.num_segments(), documents.num_tokens(), scale.batch_size, seed=0)
    while True:
        yield from sampler
        sampler.set_epoch(sampler.epoch + 1)


def _our_batches(chosen: list[list[int]], documents: Documents) -> Iterator[dict[str, Tensor]]:
    collate = DocumentCollator(layout=documents.layout, memory_tokens=False)
    for batch in chosen:
        yield collate([documents[i] for i in batch])


def _their_batches(features: datasets.Dataset, scale: Scale) -> Iterator[dict[str, Tensor]]:
    for first in range(0, len(features), scale.batch_size):
        rows = range(first, min(first + scale.batch_size, len(features)))
        yield run_qa.stack([features[i] for i in rows])


def _their_sorted_batches(features: datasets.Dataset, scale: Scale) -> Iterator[dict[str, Tensor]]:
    """The longest first, so that a batch's features are of about one length, and no column of padding alone."""
    lengths = [sum(mask) for mask in features["attention_mask"]]
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    for batch in _their_batches(features.select(order), scale):
        cut = scale.max_length - int(batch["attention_mask"].sum(1).max())
        yield {name: x - cut if name.endswith("positions") else x[:, cut:] for name, x in batch.items()}


def _run(
    take_step: Callable[[dict[str, Tensor]], None],
    make_batches: Callable[[], Iterator[dict[str, Tensor]]],
    padded: dict[str, int],
    name: str,
) -> None:
    for batch in make_batches():
        padded[name] += batch["input_ids"].numel()
        take_step(batch)


def _stepper(model: nn.Module, dtype: torch.dtype | None = None) -> Callable[[dict[str, Tensor]], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(batch: dict[str, Tensor]) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
