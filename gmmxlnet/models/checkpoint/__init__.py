"""Save and load checkpoints; anything that differs from what was saved raises a CheckpointError.

    save_model(model, folder)                  config.json, model.safetensors (or shards), checkpoint.json
    load_model(GMMXLNetForQA, folder_or_hub_id)

`GMMXLNetForQA.save_pretrained` and `.from_pretrained` call these. `manifest.py` describes `checkpoint.json`.
"""

from gmmxlnet.models.checkpoint.load import Opened, empty_model, load_model, open_checkpoint, read_config
from gmmxlnet.models.checkpoint.manifest import MANIFEST, Manifest, seal, shared_files
from gmmxlnet.models.checkpoint.save import adopt, save_model

__all__ = [
    "MANIFEST",
    "Manifest",
    "Opened",
    "adopt",
    "empty_model",
    "load_model",
    "open_checkpoint",
    "read_config",
    "save_model",
    "seal",
    "shared_files",
]
