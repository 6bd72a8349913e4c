"""Locate a checkpoint: a local folder, or a repository on the Hub, which is downloaded to the cache."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RevisionResolutionError,
)

from gmmxlnet.errors import CheckpointError, reason_of

_NOT_READ = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.ckpt", "*.npz"]


def locate(
    name: str | Path,
    *,
    revision: str | None = None,
    subfolder: str = "",
    use_safetensors: bool = True,
    **download: Any,
) -> Path:
    """Return the folder of a checkpoint given by a path or a Hub id (at a commit, branch or tag).

    Args:
        use_safetensors: False also downloads `pytorch_model.bin`.
        download: `cache_dir`, `token`, `local_files_only` and `force_download` of `snapshot_download`.

    Raises CheckpointError.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_file():
            raise CheckpointError(f"{name}: is a file, expected the folder of a checkpoint, or a Hub id")
        left_out = [pattern for pattern in _NOT_READ if use_safetensors or pattern != "*.bin"]
        try:
            folder = Path(snapshot_download(str(name), revision=revision, ignore_patterns=left_out, **download))
        except HFValidationError:
            raise CheckpointError(f"{name}: no such folder, and not a Hub id (owner/name); correct the path") from None
        except (HfHubHTTPError, HTTPError, EntryNotFoundError, OfflineModeIsEnabled, RevisionResolutionError) as error:
            at = f" at {revision}" if revision else ""
            raise CheckpointError(
                f"{name}{at}: neither a folder here nor a repository that can be fetched from the Hub "
                f"({reason_of(error)}); check the name, the revision, the connection and, for a private one, "
                "`hf auth login`"
            ) from error
    return folder / subfolder
