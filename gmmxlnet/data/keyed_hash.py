"""Random draws from a seed and a key; independent of order, so no generator state needs to be stored."""

import hashlib


def keyed_hash(seed: int, *parts: str) -> int:
    """Returns a 64-bit hash that depends only on the seed and the parts."""
    digest = hashlib.blake2b(key=f"gmmxlnet {seed}".encode(), digest_size=8)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return int.from_bytes(digest.digest(), "big")
