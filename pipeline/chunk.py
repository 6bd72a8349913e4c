"""Stage chunk: the dataset, tokenized once (`data/chunks/`), and what it holds (`reports/data.json`)."""

import logging

from gmmxlnet.data.chunks import ChunkSettings, build_chunks
from gmmxlnet.data.statistics import notes, warnings
from gmmxlnet.messages import say
from gmmxlnet.options import CHUNKING
from gmmxlnet.sharing.hub_chunks import pull_chunks, push_chunks
from gmmxlnet.utils.files import write_json
from pipeline.params import Params, load_params
from pipeline.places import CHUNKS, DATA_REPORT, find_local
from pipeline.stage import run_stage

logger = logging.getLogger(__name__)


def chunk_settings(params: Params) -> ChunkSettings:
    """The part of the parameters that decides the chunks."""
    active = params.active
    return ChunkSettings(
        dataset=params.dataset,
        dataset_revision=active.dataset_revision,
        tokenizer=active.tokenizer,
        tokenizer_revision=active.base_model_revision if active.tokenizer == active.base_model else None,
        **{name: getattr(active, name) for name in CHUNKING},
        memory_num_tokens=params.memory_num_tokens,
        seed=params.seed,
    )


def main() -> None:
    """Make the chunks or take prepared ones, report on them, and share them where that is asked for."""
    params = load_params()
    settings, hub_id = chunk_settings(params), params.hub_dataset_id
    if hub_id is not None and not params.hub_push_chunks:
        report = pull_chunks(hub_id, CHUNKS, settings)
        say(f"chunk: prepared chunks from {hub_id}, made with the same settings")
    else:
        report = build_chunks(settings, CHUNKS, find_local, num_workers=params.active.num_workers)
    write_json(DATA_REPORT, report)
    if hub_id is not None and params.hub_push_chunks:
        pushed = push_chunks(CHUNKS, report, hub_id)
        say(f"chunk: {pushed.num_files} files are at the dataset {hub_id}, commit {pushed.commit}")
    counts = ", ".join(
        f"{name} {report[name]['documents']:,} documents in {report[name]['segments']:,} segments"
        for name in ("train", "calibration", "dev")
    )
    say(f"chunk: {counts} -> {CHUNKS}, {DATA_REPORT}")
    for note in notes(report):
        say(f"chunk: {note}")
    for warning in warnings(report):
        logger.warning("chunk: warning: %s", warning)


if __name__ == "__main__":
    run_stage(main)
