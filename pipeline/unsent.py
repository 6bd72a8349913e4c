"""What MLflow did not take of a finished training: `.mlflow-unsent/` in the main repository, a file for each model.

Numbers and tags are kept, files are not: they lie in the workspace or in DVC's cache. `make track` reads it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric

from gmmxlnet.errors import CheckpointError
from gmmxlnet.utils.files import read_json, write_json
from pipeline.experiment import Experiment
from pipeline.places import main_root

FOLDER = ".mlflow-unsent"
MOST_BYTES = 64 * 2**20


@dataclass
class Unsent:
    """The identity of a run, and numbers and tags that it lacks.

    Args:
        training_key: of the training that made it; empty where a later stage does not know it.
        model: SHA-256 of the weights' fingerprint; empty before there are any, and then nothing is kept: such a
            training has not finished, and logs its steps again when it goes on.
    """

    experiment: Experiment
    training_key: str = ""
    model: str = ""
    metrics: list[Metric] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Where it is kept."""
        return main_root() / FOLDER / f"{self.experiment.key[:16]}-{self.model[:16]}.json"

    def keep(self, metrics: Sequence[Metric], tags: Mapping[str, str]) -> None:
        """Write it, together with what an earlier stage left of the same run."""
        if not self.model:
            return
        before = Unsent.read(self.file) if self.file.exists() else self
        rows = {(m.key, m.value, m.timestamp, m.step): None for m in [*before.metrics, *metrics]}
        experiment = {"parameters": self.experiment.parameters, "data": self.experiment.data}
        known = {"training_key": self.training_key or before.training_key, "model": self.model}
        values = {"metrics": [list(row) for row in rows], "tags": before.tags | dict(tags)}
        write_json(self.file, {"experiment": experiment} | known | values)

    @classmethod
    def of_model(cls, experiment: Experiment, model: str) -> "Unsent":
        """What is kept of the run of these weights; nothing, if there is nothing."""
        empty = cls(experiment, model=model)
        return cls.read(empty.file) if empty.file.exists() else empty

    @classmethod
    def read(cls, file: Path) -> "Unsent":
        """Raises CheckpointError when the file is not what `keep` wrote."""
        try:
            values = read_json(file, most=MOST_BYTES)
            experiment = Experiment(**_typed(values["experiment"], parameters=dict, data=str))
            known = _typed({name: values[name] for name in ("training_key", "model")}, training_key=str, model=str)
            metrics = [
                Metric(str(key), float(number), int(at), int(step)) for key, number, at, step in values["metrics"]
            ]
            tags = {str(key): str(value) for key, value in values["tags"].items()}
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{file}: cannot be read ({type(error).__name__}: {error}); delete it") from None
        return cls(experiment, **known, metrics=metrics, tags=tags)

    @classmethod
    def all(cls) -> Iterator["Unsent"]:
        """All that is kept, by name."""
        for file in sorted((main_root() / FOLDER).glob("*.json")):
            yield cls.read(file)


def _typed(values: dict[str, Any], **kinds: type) -> dict[str, Any]:
    if set(values) != set(kinds) or not all(isinstance(values[name], kind) for name, kind in kinds.items()):
        raise TypeError(f"expected {', '.join(kinds)}")
    return values
