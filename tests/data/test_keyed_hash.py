"""Keyed draws depend on the seed and on each part, and stay what they are: orders and cuts of data follow from them."""

from collections import Counter

from gmmxlnet.data.keyed_hash import keyed_hash


def test_the_values_are_those_of_earlier_versions():
    """Others would select other documents: what was trained before could not be reproduced."""
    assert keyed_hash(13) == 2563391540488379099
    assert keyed_hash(13, "segments", "0", "7") == 10034217771517043476
    assert keyed_hash(14, "segments", "0", "7") == 8844652384227498050


def test_seed_parts_and_where_they_end_all_count():
    draws = [keyed_hash(*key) for key in ((1,), (2,), (1, ""), (1, "ab"), (1, "a", "b"), (1, "b", "a"), (1, "é"))]
    assert len(set(draws)) == len(draws)
    assert all(0 <= draw < 2**64 for draw in draws)


def test_draws_are_spread_evenly():
    counts = Counter(keyed_hash(0, str(number)) % 8 for number in range(4000))
    assert min(counts.values()) > 420
    assert max(counts.values()) < 580
