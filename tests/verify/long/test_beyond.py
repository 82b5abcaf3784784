"""The computed bytes of benchmarks/beyond.py are those that are sent."""

import pytest

from benchmarks.beyond import counted, predicted


@pytest.mark.parametrize("ranks", [2, 4])
def test_computed_bytes_are_those_counted_on_the_simulated_network(ranks):
    """But for the digests of the arguments, 16 bytes to each other rank."""
    into = predicted(ranks, 64, 16, 2)
    out = [sum(each.get(rank, 0) for each in into) for rank in range(ranks)]
    computed = max((2 * out[rank] + sum(into[rank].values())) * 4 * (4 + 4) for rank in range(ranks))
    sent, messages = counted(ranks, 64, 16)
    assert sent == computed + 16 * (ranks - 1)
    assert messages == 4 * (ranks - 1)
