"""`portable_bits`: the same numbers on every processor that can compute them the same way, however many cores it has.

torch, oneDNN and MKL choose instructions by the processor, and sums are split among threads; both change the order of
additions. Here the instructions are those of AVX2, and the threads are two, which one core can run as well.
"""

import os
import sys
from pathlib import Path

from pipeline.params import Params

# Read when torch, oneDNN and MKL compute for the first time. MKL_CBWR alone would leave MKL's exp, tanh and
# matrix-vector products to MKL_ENABLE_INSTRUCTIONS, if somebody has set it.
INSTRUCTIONS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2,STRICT",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
THREADS = 2
PROCESSOR = Path("/proc/cpuinfo")


def prepare(params: Params) -> None:
    """Set it for this process and those that it starts, if the profile asks for it; call it before the first tensor.

    Nothing is set where the processor has no AVX2 (ARM, very old ones): it computes as it can.
    """
    if not params.active.portable_bits or not _has_avx2():
        return
    os.environ |= INSTRUCTIONS | {"OMP_NUM_THREADS": str(THREADS)}
    if torch := sys.modules.get("torch"):  # which has read OMP_NUM_THREADS
        torch.set_num_threads(THREADS)


def _has_avx2() -> bool:
    return PROCESSOR.exists() and "avx2" in PROCESSOR.read_text(encoding="utf-8").split()
