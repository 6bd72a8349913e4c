"""The model card of a converted encoder."""

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from gmmxlnet import __version__
from gmmxlnet.messages import markdown

_STEPS = {
    "algebra": "weights copied, no positions",
    "positions": "positions fitted, no gradient step",
    "distillation": "distilled",
}


def conversion_card(name: str, report: Mapping[str, Any]) -> str:
    """The text of README.md, of a `conversion.json`; nothing in it depends on when or where it was written."""
    source, corpus, training = report["source"], report["corpus"], report["distillation"]
    on_the_hub = "/" in source["name"]
    data = ModelCardData(
        license=source["license"] or "other",
        license_name=None if source["license"] else "unknown-see-source",
        library_name="transformers",
        tags=["xlnet", "gmmxlnet", "converted-from-bert"],
        base_model=source["name"] if on_the_hub else None,
    )
    stated = markdown(source["license"] or "") or "not stated by the source; find it out before you pass this model on"
    commit = f" at commit `{source['commit']}`" if source["commit"] else ""
    masked = report["after"]["distillation"]["masked_words"]
    return f"""---
{data.to_yaml()}
---

# {markdown(name)}

An XLNet of {report["config"]["n_layer"]} layers, width {report["config"]["d_model"]} and {report["parameters"]:,}
parameters, made from the BERT **{markdown(source["name"])}**{commit} by `gmmxlnet convert` (gmmxlnet {__version__}):
weights by algebra, relative positions by regression, then {training["steps"]:,} steps of distillation. It reads
segments of up to {report["settings"]["max_length"]} tokens, `text <sep> question <sep> <cls>`, padded
on the left; longer distances are clamped (`clamp_len`).

It has no head: it is a start for fine-tuning, with transformers or as `base_model` of gmmxlnet.

```python
from transformers import AutoTokenizer, XLNetForQuestionAnsweringSimple

model = XLNetForQuestionAnsweringSimple.from_pretrained({json.dumps(name)})
tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)})
```

## How close it is to its source

Mean cosine of its hidden states with the source's on {report["heldout"]["tokens"]:,} tokens of held-out text, by layer
(0 is the input of the first):

{_by_layer(report)}

Of the last layer after distillation, by how many tokens before the question a token stands:

{_by_distance(report)}

At {masked["tokens"]:,} masked tokens it predicts the same word as its source in {100 * masked["same_word"]:.1f}% of the
cases. Word: {masked["read_by"]}.

## What it was made from

* Source: {markdown(source["name"])}{commit}, SHA-256 of its encoder's tensors `{source["weights_sha256"]}`.
* License of the source: {stated}. The weights here are derived from it.
* Text: {corpus["paragraphs"]:,} paragraphs, {corpus["tokens"]:,} tokens of
  {", ".join(map(markdown, corpus["sources"]))}; SHA-256 `{corpus["sha256"]}`.
  {training["tokens_read"]:,} tokens were read.
* To repeat it bit for bit on the same kind of machine: `--steps {training["steps"]} --seed
  {report["settings"]["seed"]}`. All settings and figures are in `conversion.json`.

## Citation

Cite the source model and its license, the architecture (XLNet: Yang et al. 2019, https://arxiv.org/abs/1906.08237) and
gmmxlnet {__version__}, whose `docs/conversion.md` describes the method.
"""


def _by_layer(report: Mapping[str, Any]) -> str:
    rows = {title: report["after"][step]["cosine_by_layer"] for step, title in _STEPS.items()}
    num_states = len(next(iter(rows.values())))
    lines = ["| | " + " | ".join(map(str, range(num_states))) + " |", "|---" * (num_states + 1) + "|"]
    return "\n".join([*lines, *(f"| {title} | {_cells(values)} |" for title, values in rows.items())])


def _by_distance(report: Mapping[str, Any]) -> str:
    found = report["after"]["distillation"]["cosine_by_distance"]
    return f"| {' | '.join(found)} |\n{'|---' * len(found)}|\n| {_cells(list(found.values()))} |"


def _cells(values: list[float]) -> str:
    return " | ".join(f"{value:.3f}" for value in values)
