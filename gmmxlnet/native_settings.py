"""What OpenMP and oneDNN read when torch first uses them, for the programs of this project: the bits are the same."""

import os

SETTINGS = {
    # Threads that wait for others sleep instead of occupying a core that another program needs.
    "OMP_WAIT_POLICY": "PASSIVE",
    # oneDNN keeps a compiled product for every shape, by default 1,024 of them: gigabytes where texts of many lengths
    # are read in bfloat16. 128 are those of a few batches, and as fast.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
}


def set_native_defaults() -> None:
    """Set in the environment what is not set there; call it before torch is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
