"""`gmmxlnet export DIR OUT`: exports a model's weights in bfloat16 for sharing, with a card and hashes."""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gmmxlnet.errors import CheckpointError
from gmmxlnet.messages import markdown, say
from gmmxlnet.utils.files import atomic_folder, read_object, sha256_of

MEGABYTE = 10**6
REPORTS = ("pretraining.json", "experiment.json")  # provenance, if the folder has them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="an encoder (models/encoder) or a model (models/gmm)")
    parser.add_argument("output", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--metrics", type=Path, help="a metrics.json, whose scores the card then shows")
    parser.add_argument(
        "--max-mb", type=float, default=60, help="refuse more megabytes of weights than this (%(default)s)"
    )
    parser.add_argument("--file-mb", type=float, default=5000, help="of one file of weights (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Exports the model and prints size and hash."""
    from gmmxlnet.reports import read_scores

    size, digest = export(
        arguments.folder,
        arguments.output,
        metrics=read_scores(arguments.metrics) if arguments.metrics else None,
        max_bytes=arguments.max_mb * MEGABYTE,
        max_shard_size=int(arguments.file_mb * MEGABYTE),
    )
    say(f"export: {size / MEGABYTE:.1f} MB of weights, SHA-256 of all tensors {digest} -> {arguments.output}")
    return 0


def export(
    folder: Path, output: Path, *, metrics: Mapping[str, Any] | None, max_bytes: float, max_shard_size: int
) -> tuple[int, str]:
    """Writes the model in bfloat16 with tokenizer, card and provenance; returns size in bytes and hash of the weights.

    Args:
        folder: an XLNet with language modeling head, as written by `gmmxlnet pretrain`, or a `GMMXLNetForQA`.
        max_bytes: maximum total size of the weights; CheckpointError if exceeded.
        max_shard_size: maximum size of one weights file in bytes.
    """
    config = read_object(folder / "config.json", missing="name a folder that holds a model")
    from gmmxlnet.data.tokenizer import load_tokenizer  # with what follows it takes seconds
    from gmmxlnet.utils.tensors import weights_hash

    model = read_model(folder, config)
    with atomic_folder(output) as scratch:
        model.save_pretrained(scratch, max_shard_size=max_shard_size)
        load_tokenizer(str(folder)).save_pretrained(str(scratch))
        weights = sorted(scratch.glob("*.safetensors"))
        size = sum(path.stat().st_size for path in weights)
        if size > max_bytes:
            raise CheckpointError(
                f"{folder}: has {size / MEGABYTE:.1f} MB of weights in bfloat16, more than {max_bytes / MEGABYTE:g}; "
                "raise --max-mb, or train a smaller model"
            )
        for name in REPORTS:
            if (folder / name).exists():
                shutil.copy(folder / name, scratch / name)
        digest = weights_hash(model.state_dict())
        card = _card(output.name, config, folder, metrics)
        hashes = "\n".join(f"    {sha256_of(path)}  {path.name}" for path in weights)
        told = (
            f"## Weights\n\nbfloat16, {size:,} bytes. SHA-256 of all tensors: `{digest}`; of the files:\n\n{hashes}\n"
        )
        (scratch / "README.md").write_text(f"{card.rstrip()}\n\n{told}", encoding="utf-8")
    return size, digest


def read_model(folder: Path, config: Mapping[str, Any]) -> Any:
    """Loads the model in bfloat16. Raises CheckpointError."""
    import torch
    from transformers import XLNetLMHeadModel

    from gmmxlnet.models import GMMXLNetForQA
    from gmmxlnet.models.pretrained import read_base_config

    if config.get("model_type") == "gmmxlnet":
        return GMMXLNetForQA.from_pretrained(folder).to(torch.bfloat16)  # type: ignore[arg-type]  # wrapped by transformers
    read_base_config(str(folder), None)
    model, loading = XLNetLMHeadModel.from_pretrained(folder, output_loading_info=True)
    if loading["missing_keys"]:
        raise CheckpointError(
            f"{folder}: lacks {sorted(loading['missing_keys'])[0]}; give a folder that gmmxlnet pretrain wrote, or "
            "models/gmm"
        )
    return model.to(torch.bfloat16)  # with `dtype=`, the mask embedding would stay in float32


def _card(name: str, config: Mapping[str, Any], folder: Path, metrics: Mapping[str, Any] | None) -> str:
    from gmmxlnet.reports import read_pretraining
    from gmmxlnet.sharing.model_card import model_card

    if config["model_type"] == "gmmxlnet":
        made = folder / "experiment.json"
        parameters = read_object(made, missing="").get("parameters") if made.exists() else None
        if parameters is not None and not isinstance(parameters, dict):
            raise CheckpointError(f"{made}: parameters must be an object; remove the file, or train again")
        return model_card(name, config, name=name, parameters=parameters, metrics=metrics, folder=folder)
    return encoder_card(name, config, read_pretraining(folder / "pretraining.json"))


def encoder_card(name: str, config: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Writes the card of an encoder: architecture, training data and results."""
    import pandas as pd

    from gmmxlnet.utils.tables import markdown_table

    found, corpus = report["heldout"], report["corpus"]
    cells = [(markdown(name), markdown(str(value))) for name, value in report["settings"].items()]
    settings = markdown_table(pd.DataFrame(cells, columns=["setting", "value"]))
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: fill-mask
tags: [xlnet, gmmxlnet]
---

# {markdown(name)}

An XLNet of {config["n_layer"]} layers, width {config["d_model"]} and {report["parameters"]:,} parameters, pretrained
from scratch by masked-span prediction (`gmmxlnet pretrain`) on {corpus["train"]["tokens"]:,} tokens of
{", ".join(map(markdown, corpus["sources"]))}, read {report["tokens_read"] / corpus["train"]["tokens"]:.1f} times.
It is a start for question answering (`base_model` in params.yaml), not a language model of general use.

On held-out paragraphs, {found["tokens"]:,.0f} masked tokens: loss {found["loss"]:.3f} nats (token frequencies alone
{found["unigram_loss"]:.3f}), {100 * found["masked_accuracy"]:.1f}% right (always the most frequent token
{100 * found["unigram_accuracy"]:.1f}%).

{settings}
"""
