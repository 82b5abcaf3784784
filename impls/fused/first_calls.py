"""The first call of a shape compiles kernels, which takes seconds: it says so once, through logging."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from attention_gate.impls.fused.pipeline import Task, Tensors
from attention_gate.impls.fused.plan import Plan

_log = logging.getLogger(__name__)

# Calls that take at least this many seconds are logged as warnings, which are shown by default; on rank 0, as all ranks
# take equally long.
worth_a_warning = 1.0

_KEPT = 4096
_known: set[tuple] = set()


@contextmanager
def said(which: str, inputs: Tensors, task: Task) -> Iterator[None]:
    """Say how long the host takes for what is done meanwhile, a `which` pass, if its like was not done before."""
    plan, span = task.plan, task.plan.span
    alike: tuple[object, ...] = (which, inputs.query.dtype, inputs.query.device, *(rows.shape for rows in inputs))
    alike += task[3:]
    if isinstance(plan, Plan):
        alike += (plan.local, plan.is_causal, (span.rate, span.buffer_rows, len(span.blocks)) if span else None)
    else:  # one kernel serves all lengths of several sequences, and all bounds but for the causal one
        calls = (*plan.own, *plan.of_buffer)
        forms = {
            (len(call.query_lengths) > 1, call.left is None, call.right is None, call.right == 0) for call in calls
        }
        alike += (span is not None, *sorted(forms))
    if not inputs.query.is_cuda or alike in _known:
        yield
        return
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    if len(_known) >= _KEPT:
        _known.clear()
    _known.add(alike)
    is_first_rank = not dist.is_initialized() or dist.get_rank(task.group) == 0
    _log.log(
        logging.WARNING if is_first_rank and seconds >= worth_a_warning else logging.INFO,
        "the first %s pass of a shape took the host %.1f s, as its kernels were compiled or loaded: query %s, key %s, "
        "value %s, %s; later calls use the same",
        which, seconds, *(tuple(rows.shape) for rows in inputs), inputs.query.dtype,
    )  # fmt: skip
