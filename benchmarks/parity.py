"""Is a converted encoder as good a start for question answering as the BERT that it came from?

python -m benchmarks.parity --bert DIR --squad DIR --converted DIR [--questions 4000] [--seeds 1 2] [--out reports]

Both are fine-tuned alike: the same answerable questions in the same order, batches, learning rate and number of steps,
one head drawn from the same seed; each in its own layout, `[CLS] question [SEP] text [SEP]` for the BERT and
`text <sep> question <sep> <cls>` for the XLNet. Both are scored on the same answerable questions of dev-v2.0.json,
without a threshold for "no answer". Every run's figures are kept in `--work`; a run that is there is not repeated.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedTokenizerBase, XLNetForQuestionAnsweringSimple

from benchmarks.report import machine
from gmmxlnet.conversion.convert import REPORT as CONVERSION
from gmmxlnet.conversion.distillation import BETAS, RELATIONAL, RELATIONAL_RATE
from gmmxlnet.conversion.families import Teacher, read_teacher
from gmmxlnet.conversion.report import student_states, teacher_states
from gmmxlnet.conversion.windows import LONGEST_QUESTION, NUM_SPECIAL_TOKENS, Batch, collate
from gmmxlnet.data.keyed_hash import keyed_hash
from gmmxlnet.data.labels import label_documents
from gmmxlnet.data.squad import as_passages, read_squad_file
from gmmxlnet.data.tokenizer import encode_texts
from gmmxlnet.devices import autocast_dtype, choose_device
from gmmxlnet.errors import DataError
from gmmxlnet.evaluation.bootstrap import ContextBootstrap
from gmmxlnet.evaluation.squad_metric import raw_scores
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.encoder import XLNetEncoder
from gmmxlnet.models.xlnet_weights import xlnet_tensors
from gmmxlnet.utils.files import atomic_file, digest_of, read_json, sha256_of, write_json
from gmmxlnet.utils.logs import set_log_level
from gmmxlnet.utils.progress import Progress
from gmmxlnet.utils.seeding import seed_everything
from gmmxlnet.utils.tensors import weights_hash

BAR = 2.0  # points of F1 below its teacher that a converted encoder may be
LONGEST_ANSWER = 30
HEAD_RATE, WARMUP_STEPS, WEIGHT_DECAY, POOL = 5.0, 20, 0.01, 512
SPLIT_SEED = 0  # of the questions that are scored


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about a text that fits into one window, in tokens and with its answers."""

    id: str
    context: int
    text: str
    text_ids: np.ndarray  # (T,)
    chars: np.ndarray  # (T, 2)
    question_ids: np.ndarray
    span: tuple[int, int]  # first and last token of an answer
    answers: tuple[str, ...]

    @property
    def size(self) -> int:
        """Tokens of the window."""
        return len(self.text_ids) + len(self.question_ids) + NUM_SPECIAL_TOKENS


def read_asked(path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Asked]:
    """The answerable questions of a SQuAD file whose paragraph fits, whole, into a window beside them."""
    passages = as_passages(read_squad_file(path), "paragraph")
    texts = [passage.text for passage in passages]
    asked = [(i, question) for i, passage in enumerate(passages) for question in passage.questions if question.answers]
    encoded = encode_texts(tokenizer, texts)
    questions = encode_texts(tokenizer, [question.text for _, question in asked])
    spans_N2 = label_documents(encoded, texts, [i for i, _ in asked], [question.answers for _, question in asked])
    found = []
    for n, (i, question) in enumerate(asked):
        text, words = encoded.part(i, i + 1), questions.part(n, n + 1)
        one = Asked(
            id=question.id,
            context=i,
            text=texts[i],
            text_ids=text.ids,
            chars=text.chars,
            question_ids=words.ids[:LONGEST_QUESTION],
            span=(int(spans_N2[n, 0]), int(spans_N2[n, 1])),
            answers=tuple(answer for answer, _ in question.answers),
        )
        if one.size <= max_length:
            found.append(one)
    return found


def pick(asked: Sequence[Asked], count: int, seed: int) -> list[Asked]:
    """`count` of the questions, which, the seed and their ids decide, in that order."""
    return sorted(asked, key=lambda one: keyed_hash(seed, "parity", one.id))[:count]


class Reader(nn.Module):
    """An encoder, BERT or XLNet, with a head that says where an answer begins and ends, in the XLNet's places."""

    def __init__(self, teacher: Teacher, encoder: XLNetEncoder | None) -> None:
        super().__init__()
        self._teacher = teacher
        self.body: nn.Module = teacher.model if encoder is None else encoder
        self.is_bert = encoder is None
        self.head = nn.Linear(teacher.config.hidden_size, 2)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Start and end logits (B, L) in float32, very negative outside of the text."""
        states = teacher_states(self._teacher, batch) if self.is_bert else student_states(self.body, batch)  # type: ignore[arg-type]
        with torch.autocast(batch.place.device.type, enabled=False):
            logits_BL2 = self.head(states[-1].float()).masked_fill(~batch.is_text[..., None], -1e4)
        start_BL, end_BL = logits_BL2.unbind(-1)
        return start_BL, end_BL

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """What is trained and how fast: positions and segments of an XLNet as in distillation, the head faster."""
        named = list(self.body.named_parameters())
        fast = [tensor for name, tensor in named if not self.is_bert and name.endswith(RELATIONAL)]
        chosen = {id(tensor) for tensor in fast}
        slow = [tensor for _, tensor in named if id(tensor) not in chosen]
        groups = [(slow, rate), (fast, RELATIONAL_RATE * rate), (list(self.head.parameters()), HEAD_RATE * rate)]
        return [{"params": tensors, "lr": lr, "full": lr} for tensors, lr in groups if tensors]


def read_converted(folder: Path, tokens: dict[str, int]) -> XLNetEncoder:
    """This project's encoder from a folder that `gmmxlnet convert` wrote, loaded as transformers loads it."""
    loaded = XLNetForQuestionAnsweringSimple.from_pretrained(folder, dtype=torch.float32)
    names = ("vocab_size", "d_model", "n_layer", "n_head", "d_inner", "ff_activation", "layer_norm_eps", "clamp_len")
    keys = {name: getattr(loaded.config, name) for name in names}
    config = GMMXLNetConfig(memory_type="none", dropout=0.0, bos_token_id=None, eos_token_id=None, **keys, **tokens)
    encoder = XLNetEncoder(config)
    prefix = "encoder."
    state = {name: tensor for name, tensor in xlnet_tensors(loaded.state_dict()).items() if name.startswith(prefix)}
    encoder.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return encoder


class Run:
    """One fine-tuning and its scores."""

    def __init__(self, reader: Reader, arguments: argparse.Namespace, seed: int) -> None:
        teacher = reader._teacher
        self.reader, self.arguments, self.seed = reader, arguments, seed
        self.device = choose_device(arguments.device)
        self.dtype = autocast_dtype(arguments.precision, self.device)
        self.ids = (teacher.tokenizer.cls_token_id, teacher.tokenizer.sep_token_id, teacher.text_type)
        reader.to(self.device)

    def _batch(self, asked: Sequence[Asked]) -> Batch:
        pairs = [(one.text_ids, one.question_ids) for one in asked]
        return collate(pairs, *self.ids).to(self.device)

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return self.reader(batch)

    def train(self, asked: Sequence[Asked]) -> float:
        """One pass over the questions; returns the mean loss of the last tenth of the steps."""
        arguments, reader = self.arguments, self.reader
        batches = list(batches_of(asked, arguments.tokens, self.seed))
        optimizer = torch.optim.AdamW(
            reader.parameter_groups(arguments.learning_rate), betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )
        reader.eval()  # no dropout, in either
        losses = []
        with Progress(f"{'teacher' if reader.is_bert else 'student'} {self.seed}", len(batches), "steps") as progress:
            for step, chosen in enumerate(batches):
                for group in optimizer.param_groups:
                    group["lr"] = group["full"] * min(1, (step + 1) / WARMUP_STEPS) * (1 - step / len(batches))
                batch = self._batch(chosen)
                L = batch.place.shape[1]
                spans_B2 = torch.tensor([one.span for one in chosen], device=self.device)
                offset_B = L - torch.tensor([one.size for one in chosen], device=self.device)
                start_BL, end_BL = self._logits(batch)
                starts = F.cross_entropy(start_BL, spans_B2[:, 0] + offset_B)
                loss = (starts + F.cross_entropy(end_BL, spans_B2[:, 1] + offset_B)) / 2
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
                optimizer.step()
                losses.append(loss.item())
                progress.advance(tokens=int(batch.attention_mask.sum()), loss=losses[-1])
        return float(np.mean(losses[-max(1, len(losses) // 10) :]))

    @torch.inference_mode()
    def answers(self, asked: Sequence[Asked]) -> dict[str, str]:
        """The best span of every question, by its id."""
        found = {}
        ordered = sorted(asked, key=lambda one: one.size)
        for first in range(0, len(ordered), 32):
            chosen = ordered[first : first + 32]
            start_BL, end_BL = self._logits(self._batch(chosen))
            L = start_BL.shape[1]
            allowed_LL = torch.ones(L, L, dtype=torch.bool, device=self.device).triu().tril(LONGEST_ANSWER - 1)
            score_BLL = (start_BL[:, :, None] + end_BL[:, None]).masked_fill(~allowed_LL, -math.inf)
            best_B = score_BLL.flatten(1).argmax(-1)
            for one, best in zip(chosen, best_B.tolist(), strict=True):
                begin, end = (place - (L - one.size) for place in divmod(best, L))
                found[one.id] = one.text[one.chars[begin, 0] : one.chars[end, 1]]
        return found


def batches_of(asked: Sequence[Asked], tokens: int, seed: int) -> Iterator[list[Asked]]:
    """Batches of at most `tokens` tokens with padding, of windows of about one length, shuffled."""
    rng = np.random.default_rng(seed)
    for first in range(0, len(asked), POOL):
        batches: list[list[Asked]] = [[]]
        for one in sorted(asked[first : first + POOL], key=lambda one: one.size):
            if batches[-1] and (len(batches[-1]) + 1) * one.size > tokens:
                batches.append([])
            batches[-1].append(one)
        for i in rng.permutation(len(batches)):
            yield batches[i]


def fine_tune(arguments: argparse.Namespace, kind: str, seed: int, train: list[Asked], dev: list[Asked]) -> Any:
    """The figures of one run, from `--work` where they are there."""
    teacher = read_teacher(arguments.bert)
    if kind == "teacher":
        digest = weights_hash(teacher.model.state_dict())
    else:
        digest = read_json(arguments.converted / CONVERSION)["weights_sha256"]
    names = ("questions", "dev_questions", "max_length", "tokens", "learning_rate", "precision", "device")
    identity = {name: getattr(arguments, name) for name in names} | {"kind": kind, "seed": seed, "weights": digest}
    identity |= {"train": sha256_of(arguments.train), "dev": sha256_of(arguments.dev)}
    place = arguments.work / f"{kind}-{seed}-{digest_of(identity)[:12]}.json"
    if place.exists():
        return read_json(place)
    tokens = {f"{name}_token_id": getattr(teacher.tokenizer, f"{name}_token_id") for name in ("pad", "sep")}
    encoder = None if kind == "teacher" else read_converted(arguments.converted, tokens)
    seed_everything(seed)  # the same head for both
    run = Run(Reader(teacher, encoder), arguments, seed)
    loss = run.train(pick(train, arguments.questions, seed))
    golds = {one.id: list(one.answers) for one in dev}
    exact, f1 = raw_scores(golds, run.answers(dev))
    figures = {
        "kind": kind,
        "seed": seed,
        "exact_match": 100 * sum(exact.values()) / len(dev),
        "f1": 100 * sum(f1.values()) / len(dev),
        "final_loss": loss,
        "f1_by_question": {one.id: float(f1[one.id]) for one in dev},
    }
    write_json(place, figures)
    return figures


def summary(runs: Sequence[dict[str, Any]], dev: Sequence[Asked]) -> dict[str, Any]:
    """F1 of student less teacher, by seed and on the mean, with an interval over questions of the mean."""
    by = {(run["kind"], run["seed"]): run for run in runs}
    seeds = sorted({run["seed"] for run in runs})
    gaps_SD = np.array(
        [
            [
                100 * (by["student", s]["f1_by_question"][one.id] - by["teacher", s]["f1_by_question"][one.id])
                for one in dev
            ]
            for s in seeds
        ]
    )
    bootstrap = ContextBootstrap(np.array([one.context for one in dev]))
    return {
        "student_less_teacher_f1": {str(s): float(gap) for s, gap in zip(seeds, gaps_SD.mean(1), strict=True)},
        "mean": float(gaps_SD.mean()),
        "interval": bootstrap.interval(gaps_SD.mean(0)),
        "bar": -BAR,
        "met": bool((gaps_SD.mean(1) >= -BAR).all()),
    }


def page(report: dict[str, Any]) -> str:
    """The report as a table in markdown."""
    how, found, made = report["settings"], report["summary"], report["converted"]
    rows = [
        f"| {run['kind']} | {run['seed']} | {run['exact_match']:.1f} | {run['f1']:.1f} | {run['final_loss']:.3f} |"
        for run in report["runs"]
    ]
    gaps = ", ".join(f"{gap:+.1f} (seed {seed})" for seed, gap in found["student_less_teacher_f1"].items())
    interval = f" ({found['interval'][0]:+.1f} to {found['interval'][1]:+.1f})" if found["interval"] else ""
    return f"""# A converted encoder beside the BERT it came from

{made["source"]}, converted with {made["steps"]:,} steps of distillation on {made["tokens_read"]:,} tokens. Both were
fine-tuned on {how["questions"]:,} answerable questions of `{how["train"]}` (one pass, learning rate
{how["learning_rate"]:g}, batches of {how["tokens"]:,} tokens, windows of up to {how["max_length"]} tokens) and scored
on {report["dev_questions"]:,} answerable questions of `{how["dev"]}`, without a threshold.

| | seed | exact match | F1 | final loss |
|---|---|---|---|---|
{chr(10).join(rows)}

F1 of the converted one less its teacher's: {gaps}; mean {found["mean"]:+.2f}{interval}, 95% over contexts. The bar is
{found["bar"]:+g} on every seed: {"met" if found["met"] else "**not met**"}.

Made by `python -m benchmarks.parity`.
"""


def main() -> None:
    """Run what is missing, and write `parity.json` and `parity.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bert", required=True, help="a folder or a Hub id")
    parser.add_argument("--converted", type=Path, required=True, help="what gmmxlnet convert made of it")
    parser.add_argument("--squad", type=Path, required=True, help="folder with a train-v2*.json and dev-v2.0.json")
    parser.add_argument("--questions", type=int, default=4000)
    parser.add_argument("--dev-questions", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=4096, help="of a batch, padding included")
    parser.add_argument("--learning-rate", type=float, default=1.5e-4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="as for gmmxlnet convert")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    parser.add_argument(
        "--work", type=Path, default=Path("reports/parity-runs"), help="where the runs' figures are kept"
    )
    arguments = parser.parse_args()
    set_log_level("info")
    candidates = sorted(arguments.squad.glob("train-v2*.json"))
    if not candidates:
        raise DataError(f"{arguments.squad}: holds no train-v2*.json; name a folder of SQuAD files")
    arguments.train, arguments.dev = candidates[0], arguments.squad / "dev-v2.0.json"
    tokenizer = read_teacher(arguments.bert).tokenizer
    train = [one for one in read_asked(arguments.train, tokenizer, arguments.max_length) if one.span[0] >= 0]
    dev = pick(read_asked(arguments.dev, tokenizer, arguments.max_length), arguments.dev_questions, SPLIT_SEED)
    arguments.work.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in arguments.seeds:
        for kind in ("teacher", "student"):
            run = fine_tune(arguments, kind, seed, train, dev)
            print(f"{kind} {seed}: EM {run['exact_match']:.1f}, F1 {run['f1']:.1f}", flush=True)
            runs.append(run)
    conversion = read_json(arguments.converted / CONVERSION)
    done = conversion["distillation"]
    names = ("questions", "max_length", "tokens", "learning_rate", "precision", "seeds")
    report = {
        "summary": summary(runs, dev),
        "runs": [{name: value for name, value in run.items() if name != "f1_by_question"} for run in runs],
        "settings": {name: getattr(arguments, name) for name in names}
        | {"train": arguments.train.name, "dev": arguments.dev.name},
        "dev_questions": len(dev),
        "converted": {"source": conversion["source"]["name"], "weights_sha256": conversion["weights_sha256"]}
        | {name: done[name] for name in ("steps", "tokens_read")},
        "machine": machine(),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "parity.json", report)
    with atomic_file(arguments.out / "parity.md") as scratch:
        scratch.write_text(page(report), encoding="utf-8")


if __name__ == "__main__":
    main()
