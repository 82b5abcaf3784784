"""On which of two streams each part's rows arrive, are released and go home, and that a pass ends after both."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch

from attention_gate.impls.fused.row_transport import Messages
from tests.impls.cases import Case
from tests.impls.test_fused import CASES, run_fused
from tests.impls.worlds import results, world

Entry = tuple[str, int | None, int | None]  # what was done, for which part, and in whose turn


def run_watched(rank: int, case: Case, fails: bool) -> list[Entry]:
    """Return what a transport is asked for, in whose turn, in a forward and a backward pass."""
    log: list[Entry] = []
    now: list[int | None] = [None]

    class Watch:
        def __init__(self, device: torch.device, parts: int) -> None:
            assert now == [None]

        @contextmanager
        def of(self, part: int) -> Iterator[None]:
            before, now[0] = now[0], part % 2
            try:
                yield
            finally:
                now[0] = before

        def join(self) -> None:
            log.append(("join", None, now[0]))

    class Watched(Messages):
        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name not in ("fetch", "arrived", "released", "send_home", "home", "consumed", "ended"):
                return found

            def noted(part: int | None = None, *arguments: Any) -> Any:
                log.append((name, part, now[0]))
                if fails and (name, part) == ("released", 1):
                    raise MemoryError
                return found(*(() if part is None else (part, *arguments)))

            return noted

    with (
        patch("attention_gate.impls.fused.pipeline.TwoStreams", Watch),
        patch("attention_gate.impls.fused.pipeline._transport", Watched),
    ):
        try:
            run_fused(rank, "robust", case)
        except MemoryError:
            log.append(("raised", None, now[0]))
    return log


@pytest.mark.parametrize("name", ["dense", "dense causal", "dense, several batches"])
def test_each_part_keeps_to_its_stream(name: str) -> None:
    for log in results(2, run_watched, CASES[name], False):
        parts = {part for _, part, _ in log if part is not None}
        assert len(parts) > 1
        for asked, part, turn in log:
            is_before_all = part is None or (asked, part) == ("fetch", 0)
            assert turn == (None if is_before_all or part is None else part % 2), (asked, part)
        ends = [place for place, (asked, _, _) in enumerate(log) if asked == "ended"]
        assert len(ends) == 2
        for end in ends:
            assert log[end - 1][0] == "join"
        assert {asked for asked, _, _ in log[ends[0] + 1 :]} >= {"send_home", "home", "consumed"}


def test_a_pass_that_fails_joins_its_streams_all_the_same() -> None:
    try:
        logs = results(2, run_watched, CASES["dense"], True)
    finally:
        world(2).close()  # messages of that pass are under way still
    for log in logs:
        assert [asked for asked, _, _ in log[-3:]] == ["join", "ended", "raised"]
        assert log[-1][2] is None
