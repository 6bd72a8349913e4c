"""`gmmxlnet answer`: ask a trained model about a text of one's own."""

import argparse
import codecs
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from gmmxlnet.errors import CheckpointError, ConfigError, DataError
from gmmxlnet.evaluation.answering import Answer, answer
from gmmxlnet.models import GMMXLNetForQA

REMEDY = "name a folder that the train stage made, such as models/gmm, or a Hub id"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--model", required=True, help="a model's folder (models/gmm) or its id on the Hub")
    parser.add_argument("--revision", help="commit, tag or branch of a model on the Hub")
    parser.add_argument("--document", required=True, metavar="FILE", help="a text file; - reads standard input")
    parser.add_argument("--encoding", default="utf-8", help="of the document (default: %(default)s)")
    parser.add_argument("--question", required=True, action="append", help="give it again for another question")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list, one object a question; everything is counted from 0"
    )
    parser.add_argument("--n-best", type=int, default=1, metavar="N", help="candidates to show (default: %(default)s)")
    parser.add_argument(
        "--threshold",
        default="0",
        metavar="NUMBER|FILE",
        help="null odds above which there is no answer: a number, or a metrics.json, whose calibrated threshold is "
        "taken (default: %(default)s, whichever scores higher)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Answer every question about the document."""
    if arguments.n_best < 1:
        raise ConfigError(f"--n-best must be an integer >= 1, not {arguments.n_best}")
    threshold = read_threshold(arguments.threshold)
    document = read_document(arguments.document, arguments.encoding)
    model = load_model(arguments.model, arguments.revision)
    answers = answer(model, arguments.question, document, threshold=threshold, n_best=arguments.n_best)
    assert isinstance(answers, list)  # for a list of questions
    if arguments.json:
        print(json.dumps([asdict(each) for each in answers], ensure_ascii=False, indent=2))
    else:
        print("\n\n".join(in_words(each, arguments.n_best) for each in answers))
    return 0


def load_model(name: str, revision: str | None) -> GMMXLNetForQA:
    """The model, on the GPU where there is one; raises CheckpointError when it is not there."""
    if not Path(name).is_dir() and name.count("/") != 1:
        raise CheckpointError(f"model {name!r}: there is no such folder; {REMEDY}")
    try:
        model = GMMXLNetForQA.from_pretrained(name, revision=revision or "main")
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"model {name!r}: cannot be loaded ({reason}); {REMEDY}") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]  # as transformers wraps it


def read_document(name: str, encoding: str) -> str:
    """The text of a file or of standard input; characters are counted in it as it is, without a byte order mark."""
    shown = "standard input" if name == "-" else name
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = data.decode(encoding)
    except OSError as error:
        raise DataError(f"document {shown}: cannot be read ({error.strerror})") from None
    except LookupError:
        raise ConfigError(f"--encoding {encoding}: there is no such encoding; try utf-8, latin-1 or utf-16") from None
    except UnicodeDecodeError as error:
        likely = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin-1"
        raise DataError(
            f"document {shown}: byte {error.start} is not {encoding}; name the encoding, such as --encoding {likely}"
        ) from None
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    if not text.strip():
        raise DataError(f"document {shown}: is empty; there is nothing to read")
    return text


def read_threshold(value: str) -> float:
    """A number, or the one that evaluation chose and wrote into a metrics.json."""
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return float(json.loads(Path(value).read_text(encoding="utf-8"))["null_score_diff_threshold"])
    except OSError as error:
        raise ConfigError(f"--threshold {value}: neither a number nor a file to read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"--threshold {value}: has no null_score_diff_threshold; name the metrics.json of the evaluate stage"
        ) from None


def in_words(found: Answer, n_best: int) -> str:
    """The answer for a reader, and the candidates if more than one is asked for."""
    lines = [f"Q: {found.question}"]
    if found.segment is None:
        lines.append(f"A: (no answer: null odds {found.null_odds:.2f} exceed the threshold {found.threshold:.2f})")
    else:
        lines.append(f"A: {' '.join(found.text.split())}")
        lines.append(
            f"   characters {found.char_start} to {found.char_end}, segment {found.segment + 1} of "
            f"{found.num_segments}, probability {found.probability:.2f}"
        )
    if n_best > 1:
        for rank, candidate in enumerate(found.candidates, 1):
            text = " ".join(candidate.text.split()) or "(no answer)"
            lines.append(
                f"   {rank}. {candidate.probability:.3f}  score {candidate.score:7.2f}  segment "
                f"{candidate.segment + 1}  {text}"
            )
    return "\n".join(lines)
