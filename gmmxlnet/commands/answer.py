"""`gmmxlnet answer`: asks a trained model questions about a user's text.

Arguments and files are checked before torch is imported, which takes seconds.
"""

import argparse
import json
import math
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gmmxlnet.data.plain_text import check_whole_characters, decode_text
from gmmxlnet.errors import CheckpointError, ConfigError, DataError, reason_of
from gmmxlnet.messages import json_for_terminals, printable, said
from gmmxlnet.options import MAX_N_BEST, PRECISIONS
from gmmxlnet.utils.files import read_json

if TYPE_CHECKING:
    from gmmxlnet.evaluation.answering import Answer
    from gmmxlnet.models import GMMXLNetForQA

MOSTLY_UNFAMILIAR = 0.5  # share of unknown words from which a warning is printed
REMEDY = "name a folder that the train stage made, such as models/gmm, or a Hub id"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--model", required=True, help="a model's folder (models/gmm) or its id on the Hub")
    parser.add_argument("--revision", help="commit, tag or branch of a model on the Hub")
    parser.add_argument("--document", required=True, metavar="FILE", help="a text file; - reads standard input")
    parser.add_argument("--encoding", default="utf-8", help="of the document (default: %(default)s)")
    parser.add_argument("--question", required=True, action="append", help="give it again for another question")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list, one object a question; everything is counted from 0"
    )
    parser.add_argument("--n-best", default="1", metavar="N", help="candidates to show (default: %(default)s)")
    parser.add_argument(
        "--threshold",
        default="0",
        metavar="NUMBER|FILE",
        help="null odds above which there is no answer: a number, or a metrics.json, whose calibrated threshold is "
        "taken (default: %(default)s, whichever scores higher)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="auto: bfloat16 on a GPU, and on a CPU that has AMX, where it is faster (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Answers every question about the document."""
    n_best = int(arguments.n_best) if re.fullmatch(r"\+?\d{1,9}", arguments.n_best.strip(), re.ASCII) else 0
    if not 1 <= n_best <= MAX_N_BEST:
        given = said(arguments.n_best, 40)
        raise ConfigError(f"--n-best must be an integer from 1 to {MAX_N_BEST:,}, not {given}")
    for number, question in enumerate(arguments.question, 1):
        check_whole_characters(question, f"--question {number} of {len(arguments.question)}")
    threshold = read_threshold(arguments.threshold)
    document = read_document(arguments.document, arguments.encoding)
    check_name(arguments.model)
    from gmmxlnet.evaluation.answering import answer

    model = load_model(arguments.model, arguments.revision)
    options = {"threshold": threshold, "n_best": n_best, "precision": arguments.precision}
    answers = answer(model, arguments.question, document, **options)
    assert isinstance(answers, list)  # because the questions are a list
    if arguments.json:
        show(json_for_terminals([asdict(each) for each in answers]), as_json=True)
    else:
        show("\n\n".join(in_words(each, n_best) for each in answers))
    return 0


def show(text: str, as_json: bool = False) -> None:
    """Prints a text; characters missing from the terminal's encoding are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        escaped = (
            json.dumps(json.loads(text), indent=2)
            if as_json
            else text.encode(encoding, "backslashreplace").decode(encoding)
        )
        print(escaped)
    else:
        print(text)


def check_name(name: str) -> None:
    """Raises CheckpointError unless a model's name is a folder of files, or may be an id on the Hub."""
    if Path(name).is_dir():
        for file in sorted(Path(name).iterdir()):
            if not (file.is_file() or file.is_dir()):
                raise CheckpointError(f"{file}: is no regular file, and reading it might never end; {REMEDY}")
    elif name.count("/") != 1:
        raise CheckpointError(f"model {name!r}: there is no such folder; {REMEDY}")


def load_model(name: str, revision: str | None) -> "GMMXLNetForQA":
    """Loads the model, on a GPU if available; raises CheckpointError if it does not exist."""
    import torch

    from gmmxlnet.models import GMMXLNetForQA

    try:
        model = GMMXLNetForQA.from_pretrained(name, revision=revision or "main")
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"model {name!r}: cannot be loaded ({reason}); {REMEDY}") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]  # wrapped by transformers


def read_document(name: str, encoding: str) -> str:
    """Reads a file or standard input without a byte order mark; line ends are kept, so that offsets are exact."""
    shown = "standard input" if name == "-" else name
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise DataError(f"document {shown}: cannot be read ({error.strerror})") from None
    except ValueError:  # a null byte in the name
        raise DataError(f"document {shown!r}: there is no such file") from None
    return decode_text(data, encoding, shown)


def read_threshold(value: str) -> float:
    """Parses a number, or reads the threshold chosen by evaluation from a metrics.json."""
    try:
        threshold = float(value)
    except ValueError:
        threshold = _threshold_of_file(value)
    if not math.isfinite(threshold):
        raise ConfigError(f"--threshold {value}: must be a finite number; 1e9 answers always, --threshold=-1e9 never")
    return threshold


def _threshold_of_file(name: str) -> float:
    try:
        if Path(name).exists() and not Path(name).is_file():
            raise ConfigError(f"--threshold {name}: is no regular file; name the metrics.json of the evaluate stage")
        found = read_json(name)
    except OSError as error:
        raise ConfigError(f"--threshold {name}: neither a number nor a file to read ({error.strerror})") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(
            f"--threshold {name!r}: cannot be read ({reason_of(error)}); name the metrics.json of the evaluate stage"
        ) from None
    threshold = found.get("null_score_diff_threshold") if isinstance(found, dict) else None
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise ConfigError(
            f"--threshold {name}: has no null_score_diff_threshold; name the metrics.json of the evaluate stage"
        )
    return float(threshold)


def in_words(found: "Answer", n_best: int) -> str:
    """Formats the answer as text, with the candidates if more than one is requested."""
    lines = [f"Q: {printable(found.question)}"]
    if found.segment is None:
        lines.append(f"A: (no answer: null odds {found.null_odds:.2f} exceed the threshold {found.threshold:.2f})")
    else:
        lines.append(f"A: {printable(found.text)}")
        lines.append(
            f"   characters {found.char_start} to {found.char_end}, segment {found.segment + 1} of "
            f"{found.num_segments}, probability {found.probability:.2f}"
        )
    lines += [f"   warning: {line}" for line in unfamiliar(found)]
    if n_best > 1:
        for rank, candidate in enumerate(found.candidates, 1):
            text = printable(candidate.text) or "(no answer)"
            lines.append(
                f"   {rank}. {candidate.probability:.3f}  score {candidate.score:7.2f}  segment "
                f"{candidate.segment + 1}  {text}"
            )
    return "\n".join(lines)


def unfamiliar(found: "Answer") -> list[str]:
    """Returns a warning line if most words of the question or the document are unknown to the model."""
    shares = {"question": found.unfamiliar_in_question, "document": found.unfamiliar_in_document}
    mostly = [f"{share:.0%} of the {what}'s words" for what, share in shares.items() if share >= MOSTLY_UNFAMILIAR]
    if not mostly:
        return []
    words = ", ".join(printable(word) for word in found.unfamiliar_words)
    return [
        f"{' and '.join(mostly)} are not in the model's vocabulary ({words}, …): answer and probability mean little; "
        "ask about texts like those that it was trained on, or train it on texts like this"
    ]
