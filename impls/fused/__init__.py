"""Whole segments through fused kernels: what a call runs on where devices, dtypes and shapes allow."""

import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.fused import kernels, packed_kernels, symmetric
from attention_gate.impls.fused.packed_plan import PackedPlan, is_packed, packed_plan_of
from attention_gate.impls.fused.pipeline import Task
from attention_gate.impls.fused.plan import plan_of
from attention_gate.impls.tiling import Layout


def task_for(
    query: Tensor,
    value: Tensor,
    layout: Layout,
    is_zigzag: bool,
    scale: float,
    group: dist.ProcessGroup | None,
    in_parts: bool,
    backend: str = "auto",
    softcap: float | None = None,
) -> Task | str:
    """Return what the call is to fused kernels, or why they do not serve: the same answer on every rank."""
    packs = is_packed(layout, softcap)
    given = backend, query.device, query.dtype, query.shape[-1], value.shape[-1]
    objection = packed_kernels.objection(*given, softcap) if packs else kernels.backend_objection(*given)
    if objection:
        return objection
    if query.shape[0] == 0:
        return "there is no batch"
    if not scale > 0.0:
        return f"scale {scale} is not positive"  # cuDNN multiplies what is masked, -inf, by the scale as well.
    made = packed_plan_of(layout, is_zigzag) if packs else plan_of(layout, is_zigzag)
    if isinstance(made, str):
        return made
    if made.least_rows < kernels.least_rows:
        return f"{made.least_rows} rows at a time are fewer than {kernels.least_rows}"
    return Task(made, scale, group, in_parts, backend, softcap)


UNKNOWN = "if the GPUs share it, which the first call of the group finds out"


def backend_of(task: Task, query: Tensor, value: Tensor) -> tuple[str, str]:
    """Return whose kernels the call runs on, and why."""
    given = task.backend, query.device, query.dtype, query.shape[-1], value.shape[-1]
    if isinstance(task.plan, PackedPlan):
        return packed_kernels.backend_for(*given, task.softcap)
    return kernels.backend_for(*given)


def transport_of(task: Task, device: torch.device) -> tuple[str, str]:
    """Return how rows travel in the call, and why that way: "" where none do."""
    if task.plan.span is None:
        return "", ""
    if device.type != "cuda" or not symmetric.is_wanted:
        return "messages", symmetric.objection_of(device)
    refusal = symmetric.refusal(task.group)
    if refusal is None:
        return "shared memory", UNKNOWN
    return ("messages", refusal) if refusal else ("shared memory", "")
