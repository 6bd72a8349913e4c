"""What the push stage does where `hub_model_id` names a repository: upload the model with its card, compare, report."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gmmxlnet.data.dataset_names import held_by, load_settings
from gmmxlnet.errors import HubError
from gmmxlnet.messages import say
from gmmxlnet.models.checkpoint import MANIFEST
from gmmxlnet.reports import read_determinism, read_metrics
from gmmxlnet.sharing.model_card import model_card
from gmmxlnet.sharing.publish import publish_model
from gmmxlnet.utils.files import read_object, write_json
from pipeline.base_model import point_to_base
from pipeline.experiment import Experiment
from pipeline.params import Params
from pipeline.places import DETERMINISM, METRICS, MODEL, PUSH_REPORT, find_local

MOST_NAMED = 10


def upload(params: Params) -> None:
    """Push the model and write reports/push.json. Raises HubError unless it reloads bit for bit."""
    if not read_determinism(DETERMINISM)["bit_identical"]:
        raise HubError(f"{MODEL}: {DETERMINISM} says that it does not reload bit for bit; not pushed")
    point_to_base(params)
    experiment = Experiment.read(MODEL)
    metrics = read_metrics(METRICS)
    published = publish_model(
        MODEL,
        params.hub_model_id,
        card=card(params, experiment, metrics),
        message=f"{experiment.name}: EM {metrics['exact_match']:.2f}, F1 {metrics['f1']:.2f}",
        tags=[experiment.name, *stage_tags(params.active.progressive_segments)],
    )
    write_json(PUSH_REPORT, {"pushed": True} | asdict(published))
    if published.left_out:
        more = len(published.left_out) - MOST_NAMED
        names = ", ".join(published.left_out[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        say(f"push: not uploaded, since {MODEL / MANIFEST} does not name them: {names}")
    say(
        f"push: {published.num_files} files and {published.num_tensors} tensors are the same at {published.repo_id}, "
        f"commit {published.commit}, tags {', '.join(published.tags)}"
    )


def stage_tags(progressive_segments: list[int] | None) -> list[str]:
    """The tag of the curriculum's last stage, whose model is the one there is: `[2, 4]` gives `stage-2-segs-4`."""
    if not progressive_segments:
        return []
    return [f"stage-{len(progressive_segments)}-segs-{progressive_segments[-1]}"]


def card(params: Params, experiment: Experiment, metrics: dict[str, Any]) -> str:
    """The card names what others can find: Hub ids by themselves, files here by the last part of their path."""
    held = held_by(params.dataset, "dev")
    on_hub = isinstance(params.dataset, str) and not Path(find_local(held)).exists()
    has_own_name = on_hub or load_settings(params.dataset) is not None
    base_model = params.active.base_model
    has_base = base_model != "scratch" and not Path(find_local(base_model)).exists()
    return model_card(
        str(params.hub_model_id),
        read_object(MODEL / "config.json", missing="run the train stage first: dvc repro train"),
        name=experiment.name,
        parameters=experiment.parameters,
        metrics=metrics,
        dataset=held if has_own_name else f"{Path(held).name} (local files)",
        hub_dataset=held if on_hub else None,
        hub_base_model=base_model if has_base else None,
        folder=MODEL,
    )
