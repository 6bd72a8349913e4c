"""Generators of damaged inputs, for `scripts/fuzz.py` and the tests."""
