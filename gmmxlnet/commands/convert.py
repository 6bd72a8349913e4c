"""`gmmxlnet convert BERT OUT --text FILES`: makes a small pretrained XLNet from a BERT by minutes of distillation."""

import argparse
from dataclasses import fields
from pathlib import Path

from gmmxlnet.conversion.settings import ConversionSettings
from gmmxlnet.messages import say

SETTINGS = ConversionSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that are not fields of `SETTINGS`."""
    parser.add_argument("source", metavar="BERT", help="a folder or a Hub id: MiniLM, BGE, E5, GTE, TinyBERT, BERT ...")
    parser.add_argument("output", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument(
        "--text",
        nargs="+",
        required=True,
        metavar="FILE",
        help="to learn from: SQuAD files, text files (paragraphs between blank lines), folders of .txt",
    )
    parser.add_argument("--revision", help="of a Hub id: a commit, branch or tag")
    parser.add_argument("--license", help="of the BERT, where its model card does not say: apache-2.0, mit ...")


def run(arguments: argparse.Namespace) -> int:
    """Converts a BERT and prints how close the XLNet is to it."""
    from gmmxlnet.conversion.convert import convert  # needs more packages than other commands do

    settings = ConversionSettings(
        **{field.name: getattr(arguments, field.name) for field in fields(ConversionSettings)}
    )
    report = convert(
        arguments.source,
        arguments.output,
        arguments.text,
        settings,
        revision=arguments.revision,
        license=arguments.license,
    )
    steps = [("algebra", "weights"), ("positions", "positions"), ("distillation", "distillation")]
    cosines = ", ".join(f"{report['after'][step]['cosine_by_layer'][-1]:.3f} after {title}" for step, title in steps)
    done = report["distillation"]
    say(
        f"convert: {report['parameters']:,} parameters, {done['steps']:,} steps on {done['tokens_read']:,} tokens; "
        f"cosine with {report['source']['name']} in the last layer {cosines} -> {arguments.output}"
    )
    return 0
