"""Damaged tokenizers: what loads encodes texts into ids and character ranges that lie in them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from gmmxlnet.data.tokenizer import encode_texts, load_tokenizer, scratch_tokenizer
from scripts.fuzzing.damage import damage_bytes_of, damage_json_of

TEXTS = ("The baker is Anna.", "Dr. Ünal wrote “½ … and\u00a0more” in \uff11\uff19. <sep> नमस्ते", "", "x" * 400)


class TokenizerCases:
    """Cases by seed and number."""

    name = "tokenizers"

    def __init__(self, scratch: Path) -> None:
        self.original, self.target = scratch / "tokenizer", scratch / "damaged"
        scratch_tokenizer([*TEXTS, " ".join(f"word{n}" for n in range(60))]).save_pretrained(str(self.original))
        self.files = sorted(path.name for path in self.original.iterdir())

    def __call__(self, seed: int, number: int) -> tuple[str, Callable[[], None]]:
        """The kind of damage, and the function that reads what was damaged."""
        rng = Random(f"{seed} {number}")
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.copytree(self.original, self.target)
        path = self.target / rng.choice(self.files)
        how = rng.choice(("bytes", "json", "json", "json", "moved files"))
        if how == "bytes":
            damage_bytes_of(rng, path)
        elif how == "json":
            damage_json_of(rng, path)
        else:
            path.unlink()
            if rng.random() < 0.3:
                path.mkdir()
            elif rng.random() < 0.5:
                path.write_bytes(rng.choice((b"", b"{}", b"[]", b"null", b"\x80\x04")))
        return f"{how} of {path.name}", self._read

    def _read(self) -> None:
        tokenizer = load_tokenizer(str(self.target))
        encoded = encode_texts(tokenizer, TEXTS)
        assert len(encoded.rows) == len(TEXTS) + 1
        for number, text in enumerate(TEXTS):
            part = encoded.part(number, number + 1)
            if len(part.ids):
                assert part.ids.min() >= 0
                assert part.ids.max() < len(tokenizer)
                assert part.chars.min() >= 0
                assert part.chars.max() <= len(text)
                assert (part.chars[:, 0] <= part.chars[:, 1]).all()
