"""What finding the answers in the logits costs of an evaluation, and what it costs the run_qa way."""

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from benchmarks import run_qa
from benchmarks.inputs import Scale, Texts
from benchmarks.synthetic import pair, xlnet_config
from benchmarks.timing import Bar, Figure, figure
from gmmxlnet.data.chunks import build_split
from gmmxlnet.data.documents import Documents
from gmmxlnet.evaluation import evaluator as evaluator_module
from gmmxlnet.evaluation.evaluator import QAEvaluator

POST_PROCESSING = ("best_spans", "null_scores", "context_mask")
QUESTIONS = 128


class Clock:
    """Adds up the seconds of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, on the clock."""

        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - begin

        return call


def evaluation_figures(scale: Scale, texts: Texts) -> list[Figure]:
    """Share of the time: spans and null scores of each batch, then texts and n-best lists of all questions."""
    asked = [(passage, question) for passage in texts.passages("dev") for question in passage.questions]
    asked = asked[:: max(1, len(asked) // (6 if scale.quick else QUESTIONS))]
    shape = scale.layout(texts.tokenizer)
    documents = Documents(build_split(asked, texts.tokenizer, shape, 12 if scale.quick else 64, drop_unlabeled=False))
    config = xlnet_config(
        d_model=64 if scale.quick else 256, n_layer=1 if scale.quick else 4, vocab_size=len(texts.tokenizer)
    )
    theirs, ours = pair(config)
    shares, peer_shares = [], []
    for repeat in range(scale.repeats + 1):  # the first warms up
        found = (_our_share(ours, documents, texts), _their_share(theirs.eval(), asked, scale, texts))
        if repeat:
            shares.append(found[0])
            peer_shares.append(found[1])
    return [
        figure(
            "post-processing: share of evaluation time",
            shares,
            Bar(at_most=0.05),
            text=texts.name,
            questions=len(documents),
            d_model=config.d_model,
            layers=config.n_layer,
            share_the_run_qa_way=round(sorted(peer_shares)[len(peer_shares) // 2], 3),
        )
    ]


def _our_share(model: torch.nn.Module, documents: Documents, texts: Texts) -> float:
    clock = Clock()
    timed: dict[str, Any] = {name: clock.timed(getattr(evaluator_module, name)) for name in POST_PROCESSING}
    begin = time.perf_counter()
    with mock.patch.multiple(evaluator_module, **timed):
        predictions = QAEvaluator(model, texts.tokenizer).predict(documents)
    clock.timed(predictions.answers)(0.0)
    clock.timed(predictions.n_best_by_id)()
    return clock.seconds / (time.perf_counter() - begin)


@torch.inference_mode()
def _their_share(model: torch.nn.Module, asked: list[Any], scale: Scale, texts: Texts) -> float:
    """Of reading prepared features and looking for answers; without preparing them."""
    questions = run_qa.rows(texts.dev, {question.id for _, question in asked})
    features = run_qa.prepare(
        questions, texts.tokenizer, make=run_qa.evaluation_features, max_length=scale.max_length, stride=scale.stride
    )
    begin = time.perf_counter()
    starts, ends = [], []
    for first in range(0, len(features), scale.batch_size):
        rows = range(first, min(first + scale.batch_size, len(features)))
        output = model(**run_qa.stack([features[i] for i in rows]))
        starts.append(output.start_logits)
        ends.append(output.end_logits)
    clock = Clock()
    clock.timed(run_qa.answers)(questions, features, torch.cat(starts).numpy(), torch.cat(ends).numpy())
    return clock.seconds / (time.perf_counter() - begin)
