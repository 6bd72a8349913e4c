"""`gpu.json`: which families have ended, with their figures. It is written whenever a family begins or ends.

    {"settings": {...}, "families": {NAME: {"state": "done", "seconds": 34.1, "rows": [...]},
                                     NAME: {"state": "failed", "reason": "..."}, NAME: {"state": "running"}}}

Neither torch nor transformers is imported here.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gmmxlnet.utils.files import read_json, write_json

DONE, FAILED, RUNNING = "done", "failed", "running"


class State:
    """The file in a folder, of which only what was taken with the same settings counts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gpu.json"
        self._content: dict[str, Any] = {"settings": None, "families": {}}
        if self.path.exists():
            self._content = read_json(self.path)

    @property
    def families(self) -> dict[str, dict[str, Any]]:
        """What is known of each family."""
        return self._content["families"]

    def of(self, name: str) -> str | None:
        """How a family stands; None if it has not begun."""
        return self.families.get(name, {}).get("state")

    def begin(self, settings: dict[str, Any]) -> None:
        """Forget figures that were taken otherwise: with other sizes, another card, other packages."""
        if self._content["settings"] != settings:
            self._content = {"settings": settings, "families": {}}
            self._write()

    def set(self, name: str, state: str, **more: Any) -> None:
        """Write how a family stands."""
        self.families[name] = {"state": state, **more}
        self._write()

    def forget(self, names: Iterable[str]) -> None:
        """These have not been taken, whatever was written."""
        for name in names:
            self.families.pop(name, None)
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self._content)
