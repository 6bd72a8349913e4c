"""The model card: scores, memory ablations, how to load the checkpoint, and its origin.

The card's metadata has the scores too (`model-index`), where the Hub and the choice of `best-model` read them. A card
does not depend on when or where it is written.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from gmmxlnet import __version__
from gmmxlnet.memory_kinds import KINDS
from gmmxlnet.messages import code_block, markdown, said
from gmmxlnet.utils.files import read_json
from gmmxlnet.utils.tables import markdown_table

LICENSE = "apache-2.0"
ABLATIONS = {
    "normal": "as trained",
    "zeroed": "with an empty memory",
    "shuffled": "with another document's memory",
    "reset": "with the memory reset at every segment",
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
    folder: Path | None = None,
) -> str:
    """The text of README.md.

    Args:
        repo_id: the repository that the model is loaded from.
        config: `config.json`.
        name: the experiment's, such as `gmm-k4-write`.
        parameters: of the experiment, flattened. metrics: the contents of `reports/metrics.json`.
        dataset: the data of training and scores, in words. hub_dataset, hub_base_model: their ids, if on the Hub.
        folder: the checkpoint's, whose tokenizer is described.
    """
    data = ModelCardData(
        license=LICENSE,
        library_name="gmmxlnet",
        pipeline_tag="question-answering",
        tags=["gmmxlnet", "xlnet", "question-answering", "memory", "long-documents", str(config["memory_type"])],
        datasets=[hub_dataset] if hub_dataset else None,
        base_model=hub_base_model,
        base_model_relation="adapter" if hub_base_model and config.get("adapter") else None,
        model_name=said(name),
        eval_results=_eval_results(metrics, said(dataset or "unnamed"), hub_dataset) if metrics else None,
    )
    sections = [
        f"# {markdown(name)}",
        _description(config) + _adapter(config, hub_base_model),
        _scores(metrics, dataset or "a dataset without a name") if metrics else "There are no scores for this model.",
        _usage(repo_id, config, folder),
        _origin(parameters, hub_base_model),
        "## License\n\nApache-2.0, like the code. The training data has its own license.",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def reported_f1(card: str) -> tuple[str | None, float | None]:
    """The dataset and the F1 score in a card's metadata; None if missing."""
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
            dataset_type=hub_dataset or "local",
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
        "Extractive question answering on documents longer than the encoder's input: an XLNet of "
        f"{config['n_layer']} layers and width {config['d_model']} that reads a document segment by segment. "
        f"Memory: {memory}."
    )


def _adapter(config: Mapping[str, Any], hub_base_model: str | None) -> str:
    """What an adapter checkpoint needs; the base model is named only if it is on the Hub, never by a local path."""
    if config.get("adapter") is None:
        return ""
    base = f"[{hub_base_model}](https://huggingface.co/{hub_base_model})" if hub_base_model else "its base model"
    where = "" if hub_base_model else ", given by `base_model=` or the variable `GMMXLNET_BASE_MODEL`"
    return f" This is an adapter (LoRA, rank {config['adapter']['rank']}): loading it also loads {base}{where}."


def _scores(metrics: Mapping[str, Any], dataset: str) -> str:
    """The official figures, the floor, and the scores under each memory ablation."""
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
            f"Official SQuAD 2.0 metric on the {metrics['total']:,} validation questions of {markdown(dataset)}, in "
            f"percent. F1 is {' and '.join(groups)}. The answer is “no answer” above a null score difference of "
            f"{metrics['null_score_diff_threshold']:.4f}.",
            "",
            markdown_table(pd.DataFrame(rows, columns=["", "exact match", "F1"])),
        ]
    )


def _usage(repo_id: str, config: Mapping[str, Any], folder: Path | None) -> str:
    num_tokens = KINDS[config["memory_type"]].num_token_ids(config.get("memory_slots", 0))
    kind = describe_tokenizer(folder) if folder is not None else None
    words = ", ".join(([kind] if kind else []) + ([f"with the {num_tokens} memory tokens"] if num_tokens else []))
    comment = f"  # {words}" if words else ""
    return (
        "## Use\n\n```python\n"
        "from gmmxlnet.data.tokenizer import load_tokenizer\n"
        "from gmmxlnet.models import GMMXLNetForQA\n\n"
        f"model = GMMXLNetForQA.from_pretrained({json.dumps(repo_id)}).eval()\n"
        f"tokenizer = load_tokenizer({json.dumps(repo_id)}){comment}\n"
        "```"
    )


def describe_tokenizer(folder: Path) -> str | None:
    """The kind and size of a checkpoint's tokenizer, such as `WordPiece of 30,522 tokens`; None without one."""
    try:
        model = read_json(folder / "tokenizer.json")["model"]
        return f"{said(str(model['type']))} of {len(model['vocab']):,} tokens"
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _origin(parameters: Mapping[str, Any] | None, hub_base_model: str | None) -> str:
    start = f"It started from [{hub_base_model}](https://huggingface.co/{hub_base_model}). " if hub_base_model else ""
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    text = f"## Origin\n\n{start}Shared with gmmxlnet {__version__}, {versions}."
    if parameters:
        text += f" Trained with:\n\n{code_block(json.dumps(dict(parameters), indent=2, ensure_ascii=False), 'json')}"
    return text


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"
