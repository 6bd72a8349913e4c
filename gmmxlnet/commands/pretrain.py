"""`gmmxlnet pretrain`: pretrains an encoder from scratch on plain text when no pretrained weights are available."""

import argparse
from dataclasses import fields
from pathlib import Path

from gmmxlnet.errors import ConfigError
from gmmxlnet.messages import say
from gmmxlnet.pretraining.settings import PretrainingSettings

SETTINGS = PretrainingSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that are not fields of `SETTINGS`."""
    parser.add_argument(
        "--corpus",
        nargs="+",
        metavar="SOURCE",
        help="SQuAD files, text files or folders of .txt; left out: the tokens that are in --tokens already",
    )
    parser.add_argument("--tokenizer", help="of --corpus: a folder, a Hub id, or scratch for a vocabulary of its words")
    parser.add_argument("--heldout-fraction", type=float, default=0.02, help="of the paragraphs (default: %(default)s)")
    parser.add_argument("--tokens", default="data/corpus", help="folder of token arrays (default: %(default)s)")
    parser.add_argument("--tokens-only", action="store_true", help="write --tokens, to be carried to a GPU, and stop")
    parser.add_argument("--output", default="models/encoder", help="the encoder's folder (default: %(default)s)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that make batches (default: %(default)s)")
    parser.add_argument(
        "--save-steps", type=int, help="between checkpoints (default: as often as 1%% of the time allows)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Tokenizes the corpus if one is given, then pretrains."""
    from gmmxlnet.pretraining.corpus import prepare_corpus  # needs more packages than other commands do

    if arguments.corpus:
        if not arguments.tokenizer:
            raise ConfigError("--tokenizer is needed with --corpus: a folder, a Hub id, or scratch")
        if not 0 < arguments.heldout_fraction < 1:
            raise ConfigError(f"--heldout-fraction must be between 0 and 1, not {arguments.heldout_fraction}")
        made = prepare_corpus(
            arguments.corpus,
            arguments.tokenizer,
            arguments.tokens,
            heldout_fraction=arguments.heldout_fraction,
            seed=arguments.seed,
        )
        sizes = ", ".join(f"{part} {made[part]['tokens']:,} tokens" for part in ("train", "heldout"))
        say(f"pretrain: {sizes} in {made['vocabulary']:,} pieces -> {arguments.tokens}")
    if not arguments.tokens_only:
        pretrain_as_asked(arguments)
    return 0


def pretrain_as_asked(arguments: argparse.Namespace) -> None:
    """Pretrains with the given options and prints the results."""
    from gmmxlnet.pretraining.corpus import Corpus
    from gmmxlnet.pretraining.pretrain import pretrain

    values = {field.name: getattr(arguments, field.name) for field in fields(PretrainingSettings)}
    output = Path(arguments.output)
    report = pretrain(
        Corpus.open(arguments.tokens),
        PretrainingSettings(**values),
        output,
        num_workers=arguments.num_workers,
        save_steps=arguments.save_steps,
    )
    found = report["heldout"]
    say(
        f"pretrain: {report['parameters']:,} parameters, {report['tokens_read']:,} tokens read; held out: loss "
        f"{found['loss']:.3f} (frequencies alone {found['unigram_loss']:.3f}), masked tokens right "
        f"{100 * found['masked_accuracy']:.1f}% (the most frequent one {100 * found['unigram_accuracy']:.1f}%) "
        f"-> {output}"
    )
