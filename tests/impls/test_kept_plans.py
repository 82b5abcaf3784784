"""Which plans are kept from call to call: those whose index tensors are small."""

from unittest.mock import patch

import pytest
import torch

from attention_gate.impls import schedule
from attention_gate.impls.schedule import Hop, Ring, gathering
from attention_gate.impls.tiling import Branch, Layout
from attention_gate.impls.work import Work

CPU = torch.device("cpu")

LAYOUTS = [
    Layout(16, 4, 1, 4, 2, (Branch(16, 1),), True),
    Layout(19, 3, 2, 4, 4, (Branch(7, 1), Branch(19, 2)), False),
]


def elements(works: tuple[Work, ...]) -> int:
    return sum(work.query_index.numel() + work.key_index.numel() for work in works)


def hops_of(ring: Ring) -> list[Hop]:
    return [hop for hop, _ in ring.hops()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hop_is_kept_up_to_so_many_elements(layout: Layout) -> None:
    sizes = [hop.sent.numel() + elements(hop.works) for hop in hops_of(Ring(layout, CPU))]
    assert any(hop.sent.numel() and hop.works for hop in hops_of(Ring(layout, CPU)))
    for limit in {size + more for size in sizes for more in (-1, 0)}:
        with patch.object(schedule, "_KEPT_ELEMENTS", limit):
            ring = Ring(layout, CPU)
            kept = [hop is again for hop, again in zip(hops_of(ring), hops_of(ring), strict=True)]
        assert kept == [size <= limit for size in sizes]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gathering_is_kept_up_to_so_many_elements(layout: Layout) -> None:
    made = gathering(layout, CPU)
    assert made.own.numel()
    assert made.sent.numel()
    size = made.own.numel() + made.sent.numel() + elements(made.works)
    for limit in (size - 1, size):
        schedule._small_gathering.cache_clear()
        with patch.object(schedule, "_KEPT_ELEMENTS", limit):
            assert (gathering(layout, CPU) is gathering(layout, CPU)) == (size <= limit)
    schedule._small_gathering.cache_clear()
