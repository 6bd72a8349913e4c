"""What a dataset is called, in reports, cards and errors, whichever of its forms `params.yaml` has.

"data/sample"                                   a folder, or a Hub id
{"train": "a.json", "dev": "b.json"}            a file, or a folder of parts, for each split
{"load": {"num_towns": 4, …}}                   generated (`gmmxlnet.data.load`): `options.LOAD` has all keys
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "dev"]
Source = str | Path | Mapping[str, Any]


def load_settings(dataset: Source) -> Mapping[str, Any] | None:
    """The settings of a load world, by the names in `options.LOAD`; None for a dataset that is read, not made."""
    return dataset["load"] if isinstance(dataset, Mapping) and set(dataset) == {"load"} else None


def described(dataset: Source) -> str:
    """The whole dataset on one line: `data/sample`, `a.json, b.json`, or `load world, 4 towns`."""
    settings = load_settings(dataset)
    return _in_words(settings) if settings is not None else ", ".join(places(dataset))


def held_by(dataset: Source, split: Split) -> str:
    """What holds one split: the name of a file, of a folder or on the Hub, or the generator in words."""
    settings = load_settings(dataset)
    if settings is not None:
        return _in_words(settings)
    return str(dataset[split] if isinstance(dataset, Mapping) else dataset)


def places(dataset: Source) -> list[str]:
    """Names of files, folders and Hub repositories; none for a generated dataset."""
    if load_settings(dataset) is not None:
        return []
    if isinstance(dataset, Mapping):
        return [str(dataset[split]) for split in ("train", "dev") if split in dataset]
    return [str(dataset)]


def located(dataset: Source, locate: Callable[[str], str]) -> Any:
    """The dataset in plain values that JSON can store, each of its names as `locate` gives it."""
    settings = load_settings(dataset)
    if settings is not None:
        return {"load": dict(settings)}
    if isinstance(dataset, Mapping):
        return {split: locate(str(name)) for split, name in dataset.items()}
    return locate(str(dataset))


def _in_words(settings: Mapping[str, Any]) -> str:
    towns, updates, lag = (settings[name] for name in ("num_towns", "num_updates", "lag"))
    parts = [
        f"load world, {towns} {'town' if towns == 1 else 'towns'}",
        f"{updates} {'update' if updates == 1 else 'updates'}" if updates else "",
        f"lag {lag}" if lag else "",
        "" if settings["town_with_list"] else "town before the list",
    ]
    return ", ".join(filter(None, parts))
