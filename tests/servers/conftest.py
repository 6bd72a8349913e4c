"""Tests that start real servers on this machine; `make scale-test` installs and runs them."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "pipeline"), str(TESTS / "training")]  # what other tests share
