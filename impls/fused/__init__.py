"""Whole segments through fused kernels: what a call runs on where devices, dtypes and shapes allow."""

import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.fused import kernels
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
) -> Task | str:
    """Return what the call is to fused kernels, or why they do not serve: the same answer on every rank."""
    head_dim, value_dim = query.shape[-1], value.shape[-1]
    if objection := kernels.objection(query.device, query.dtype, head_dim, value_dim):
        return objection
    if query.shape[0] == 0:
        return "there is no batch"
    if not scale > 0.0:
        return f"scale {scale} is not positive"  # cuDNN multiplies what is masked, -inf, by the scale as well.
    made = plan_of(layout, is_zigzag)
    if isinstance(made, str):
        return made
    if made.least_rows < kernels.least_rows:
        return f"{made.least_rows} rows at a time are fewer than {kernels.least_rows}"
    return Task(made, scale, group, in_parts)
