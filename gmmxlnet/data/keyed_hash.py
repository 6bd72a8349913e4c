"""Draws that depend on a seed and on what is drawn for, never on order: nothing to store, nothing to replay."""

import hashlib


def keyed_hash(seed: int, *parts: str) -> int:
    """64 bits that depend on the seed and the parts alone."""
    digest = hashlib.blake2b(key=f"gmmxlnet {seed}".encode(), digest_size=8)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return int.from_bytes(digest.digest(), "big")
