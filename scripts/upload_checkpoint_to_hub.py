"""Share a checkpoint: upload it, load it from the Hub, compare it bit for bit, tag it.

    HF_TOKEN=… python scripts/upload_checkpoint_to_hub.py outputs/gmm-xlnet-squad/final owner/name --tag stage-2-segs-4

`dvc repro push` does the same for the experiment in params.yaml, with its scores in the model card.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gmmxlnet.errors import GMMXLNetError
from gmmxlnet.messages import say
from gmmxlnet.models.checkpoint import MANIFEST
from gmmxlnet.sharing.model_card import model_card
from gmmxlnet.sharing.publish import Published, publish_model
from gmmxlnet.utils.files import read_object

SEAL = "to share them too, seal the folder first: gmmxlnet.models.checkpoint.seal(folder)"


def upload_checkpoint(
    checkpoint_path: str | Path,
    hub_id: str,
    token: str | None = None,
    *,
    tags: Sequence[str] = (),
    private: bool = True,
) -> Published:
    """Share what `save_pretrained` wrote. A README.md in the folder is its card; else one without scores is written.

    Raises CheckpointError where the folder holds no checkpoint, HubError where the Hub refuses or changes it.
    """
    folder = Path(checkpoint_path)
    config = read_object(folder / "config.json", missing="name a folder that save_pretrained wrote")
    written = folder / "README.md"
    if written.is_file():
        card = written.read_text(encoding="utf-8")
    else:
        card = model_card(hub_id, config, name=hub_id.rpartition("/")[2], folder=folder)
    message = f"Upload {folder.name}"
    return publish_model(folder, hub_id, card=card, message=message, tags=tags, private=private, token=token)


def main() -> int:
    """The command line; the token comes from HF_TOKEN or `hf auth login`, never from an argument."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder that save_pretrained wrote")
    parser.add_argument("hub_id", help="owner/name")
    parser.add_argument("--tag", action="append", default=[], help="tag to move there, beside best-model")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    arguments = parser.parse_args()
    try:
        published = upload_checkpoint(
            arguments.checkpoint, arguments.hub_id, tags=arguments.tag, private=not arguments.public
        )
    except GMMXLNetError as error:
        say(f"upload: {error}", file=sys.stderr)
        return 1
    if published.left_out:
        say(f"upload: not uploaded, since {MANIFEST} does not name them: {', '.join(published.left_out)}; {SEAL}")
    say(f"upload: {published.repo_id} at {published.commit}, tags {', '.join(published.tags)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
