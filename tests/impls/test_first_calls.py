"""The first call of a shape says how long its kernels took: once, and on one rank as a warning where it was long."""

from itertools import accumulate
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch

from attention_gate.impls.fused import first_calls
from attention_gate.impls.fused.packed_plan import packed_plan_of
from attention_gate.impls.fused.pipeline import Task, Tensors
from attention_gate.impls.fused.plan import plan_of
from attention_gate.impls.tiling import Branch, Document, Layout


def rows(*shape: int, is_cuda: bool = True, dtype: torch.dtype = torch.bfloat16) -> Any:
    return Mock(shape=torch.Size(shape), dtype=dtype, device=torch.device("cuda", 0), is_cuda=is_cuda)


def task(length: int = 16, is_causal: bool = True, backend: str = "auto", in_parts: bool = True) -> Task:
    made: Any = plan_of(Layout(length, 2, 1, 2, 2, (Branch(length, 1),), is_causal), False)
    return Task(made, 1.0, None, in_parts, backend)


def call(seconds: float, which: str, inputs: Tensors, given: Task) -> None:
    with patch("time.perf_counter", side_effect=[100.0, 100.0 + seconds]), first_calls.said(which, inputs, given):
        pass


@pytest.mark.parametrize(("seconds", "rank", "level"), [(0.9, 0, "INFO"), (1.0, 0, "WARNING"), (9.0, 1, "INFO")])
def test_it_is_said_once_and_aloud_where_it_takes_long(
    seconds: float, rank: int, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = Tensors(rows(1, 8, 4, 16), rows(1, 8, 2, 16), rows(1, 8, 2, 24))
    with (
        caplog.at_level("INFO"),
        patch.object(first_calls, "_known", set()),
        patch("torch.distributed.is_initialized", lambda: True),
        patch("torch.distributed.get_rank", lambda _: rank),
    ):
        for _ in range(3):
            call(seconds, "backward", inputs, task())
    (record,) = caplog.records
    assert record.levelname == level
    assert f"first backward pass of a shape took the host {seconds} s" in record.getMessage()
    assert "query (1, 8, 4, 16), key (1, 8, 2, 16), value (1, 8, 2, 24), torch.bfloat16" in record.getMessage()


def test_each_other_shape_is_said_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    same = rows(1, 8, 4, 16)
    calls: list[tuple[str, Tensors, Task]] = [
        ("forward", Tensors(same, same, same), task()),
        ("backward", Tensors(same, same, same), task()),
        ("forward", Tensors(rows(1, 8, 4, 32), same, same), task()),
        ("forward", Tensors(same, rows(1, 8, 2, 16), same), task()),
        ("forward", Tensors(rows(1, 8, 4, 16, dtype=torch.float16), same, same), task()),
        ("forward", Tensors(same, same, same), task(is_causal=False)),
        ("forward", Tensors(same, same, same), task(length=32)),
        ("forward", Tensors(same, same, same), task(backend="cudnn")),
        ("forward", Tensors(same, same, same), task(in_parts=False)),
    ]
    with caplog.at_level("INFO"), patch.object(first_calls, "_known", set()):
        for which, inputs, given in calls * 2:
            call(0.1, which, inputs, given)
        assert len(caplog.records) == len(calls)
        with patch.object(first_calls, "_KEPT", len(calls)):
            call(0.1, "forward", Tensors(same, same, rows(1, 8, 4, 8)), task())
            assert len(first_calls._known) == 1


def packed_task(window: tuple[int | None, int | None], documents: tuple[int, ...] = (16,)) -> Task:
    firsts = accumulate(documents, initial=0)
    given = tuple(Document(first, each, first, each) for first, each in zip(firsts, documents, strict=False))
    layout = Layout(16, 1, 0, 2, 2, (Branch(16, 1),), False, documents=given, window=window)
    made: Any = packed_plan_of(layout, False)
    return Task(made, 1.0, None, True)


def test_each_other_form_of_packed_sequences_is_said_by_itself_whatever_their_lengths(
    caplog: pytest.LogCaptureFixture,
) -> None:
    same = rows(1, 16, 2, 16)
    forms = [(None, None), (None, 0), (3, 0), (None, 3), (3, 2)]
    alike = [packed_task((2, 0)), packed_task((None, 0), (5, 11)), packed_task((None, 0), (9, 4, 3))]
    with caplog.at_level("INFO"), patch.object(first_calls, "_known", set()):
        for given in [*map(packed_task, forms), *alike]:
            call(0.1, "forward", Tensors(same, same, same), given)
        assert len(caplog.records) == len(forms) + 1  # several sequences take another kernel than one does


def test_nothing_is_compiled_on_the_cpu_and_nothing_known_of_a_call_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    on_cpu, on_gpu = rows(1, 8, 4, 16, is_cuda=False), rows(1, 8, 4, 16)
    with caplog.at_level("INFO"), patch.object(first_calls, "_known", set()):
        call(5.0, "forward", Tensors(on_cpu, on_cpu, on_cpu), task())
        with pytest.raises(MemoryError), first_calls.said("forward", Tensors(on_gpu, on_gpu, on_gpu), task()):
            raise MemoryError
        assert not caplog.records
        assert not first_calls._known
