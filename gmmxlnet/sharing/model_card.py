"""The model card: what a checkpoint scores, what its memory is worth, how it is loaded and what made it.

The scores stand in the card's metadata too (`model-index`), where the Hub and `best-model` read them. Nothing in a card
depends on when or where it was written.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from gmmxlnet import __version__
from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.utils.tables import markdown_table

LICENSE = "apache-2.0"
ABLATIONS = {
    "normal": "as trained",
    "zeroed": "with an empty memory",
    "shuffled": "with another document's memory",
    "reset": "with a memory reset at every segment",
}
_PACKAGES = ("torch", "transformers", "safetensors")


def model_card(
    repo_id: str,
    config: Mapping[str, Any],
    *,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    hub_dataset: str | None = None,
    hub_base_model: str | None = None,
) -> str:
    """The text of README.md.

    Args:
        repo_id: where the model will be loaded from.
        config: `config.json`.
        name: the experiment's, such as `gmm-k4-write`.
        parameters: what made the model, flattened. metrics: `reports/metrics.json`.
        dataset: what it was trained and scored on, in words; `hub_dataset`, `hub_base_model`: ids, if on the Hub.
    """
    data = ModelCardData(
        license=LICENSE,
        library_name="gmmxlnet",
        pipeline_tag="question-answering",
        tags=["gmmxlnet", "xlnet", "question-answering", "memory", "long-documents", str(config["memory_type"])],
        datasets=[hub_dataset] if hub_dataset else None,
        base_model=hub_base_model,
        base_model_relation="adapter" if hub_base_model and config.get("adapter") else None,
        model_name=name,
        eval_results=_eval_results(metrics, dataset or "unnamed", hub_dataset) if metrics else None,
    )
    sections = [
        f"# {name}",
        _description(config) + _adapter(config, hub_base_model),
        _scores(metrics, dataset or "a dataset without a name") if metrics else "It was shared without scores.",
        _usage(repo_id, config),
        _origin(parameters, hub_base_model),
        "## License\n\nApache-2.0, as the code. What it was trained on has a license of its own.",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def reported_f1(card: str) -> tuple[str | None, float | None]:
    """The dataset and the F1 that a card's metadata report; None where they do not."""
    data: Any = ModelCard(card, ignore_metadata_errors=True).data
    for result in data.eval_results or []:
        if result.metric_type == "f1" and isinstance(result.metric_value, int | float):
            return result.dataset_name, float(result.metric_value)
    return None, None


def _eval_results(metrics: Mapping[str, Any], dataset: str, hub_dataset: str | None) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="question-answering",
            task_name="Extractive question answering",
            dataset_type=hub_dataset or "local-files",
            dataset_name=dataset,
            dataset_split="validation",
            metric_type=kind,
            metric_name=title,
            metric_value=metrics[kind],
        )
        for kind, title in (("exact_match", "Exact match"), ("f1", "F1"))
    ]


def _description(config: Mapping[str, Any]) -> str:
    values = {**config, "memory_num_tokens": config.get("memory_slots")}
    memory = KINDS[config["memory_type"]].load().description.format_map(values)
    return (
        "Extractive question answering on documents longer than what the encoder can read at once: an XLNet of "
        f"{config['n_layer']} layers and width {config['d_model']} that reads a document segment by segment. "
        f"Memory: {memory}."
    )


def _adapter(config: Mapping[str, Any], hub_base_model: str | None) -> str:
    """What a checkpoint without its encoder needs; the base's name stays out where it is a path on some machine."""
    if config.get("adapter") is None:
        return ""
    base = f"[{hub_base_model}](https://huggingface.co/{hub_base_model})" if hub_base_model else "its base model"
    where = "" if hub_base_model else ", which `base_model=` or the variable `GMMXLNET_BASE_MODEL` has to name"
    return f" This is an adapter (LoRA, rank {config['adapter']['rank']}): loading it fetches {base} too{where}."


def _scores(metrics: Mapping[str, Any], dataset: str) -> str:
    """The official figures, the floor, and the same model with its memory taken away."""
    scored = {ABLATIONS.get(kind, kind): row for kind, row in metrics.get("memory_ablation", {}).items()}
    scored = (scored or {"as trained": metrics}) | {"always answering “no answer”": metrics["always_no_answer"]}
    rows = [[name, _figure(row["exact_match"]), _figure(row["f1"])] for name, row in scored.items()]
    groups = [
        f"{_figure(metrics[f'{group}_f1'])} on the {metrics[f'{group}_total']:,} {words}"
        for group, words in (("HasAns", "answerable"), ("NoAns", "unanswerable"))
        if metrics[f"{group}_total"]
    ]
    return "\n".join(
        [
            "## Scores",
            "",
            f"On the {metrics['total']:,} validation questions of {dataset}, by the official SQuAD 2.0 metric, in "
            f"percent. F1 is {' and '.join(groups)}. No answer is given above a null score difference of "
            f"{metrics['null_score_diff_threshold']:.4f}.",
            "",
            markdown_table(pd.DataFrame(rows, columns=["", "exact match", "F1"])),
        ]
    )


def _usage(repo_id: str, config: Mapping[str, Any]) -> str:
    num_tokens = KINDS[config["memory_type"]].num_token_ids(config.get("memory_slots", 0))
    tokens = f", with the {num_tokens} memory tokens" if num_tokens else ""
    return (
        "## Use\n\n```python\n"
        "from gmmxlnet.data.tokenizer import load_tokenizer\n"
        "from gmmxlnet.models import GMMXLNetForQA\n\n"
        f'model = GMMXLNetForQA.from_pretrained("{repo_id}").eval()\n'
        f'tokenizer = load_tokenizer("{repo_id}")  # XLNet\'s{tokens}\n'
        "```"
    )


def _origin(parameters: Mapping[str, Any] | None, hub_base_model: str | None) -> str:
    start = f"It started from [{hub_base_model}](https://huggingface.co/{hub_base_model}). " if hub_base_model else ""
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    text = f"## Origin\n\n{start}Shared with gmmxlnet {__version__}, {versions}."
    if parameters:
        text += f" Trained with:\n\n```json\n{json.dumps(dict(parameters), indent=2, ensure_ascii=False)}\n```"
    return text


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"
