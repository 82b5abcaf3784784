"""PyTorch's context_parallel, keys and values gathered or passed around. Part of torch, a prototype by its own words.

python -m attention_gate gate examples/torch_context_parallel_target.py:all_gather --device cuda --world-sizes 1,2
python -m attention_gate gate examples/torch_context_parallel_target.py:cpu_all_gather
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._context_parallel import _attention as library
from torch.nn.attention import SDPBackend, sdpa_kernel

import attention_gate

_entered = []


def enter(device: torch.device, method: str, balanced: bool) -> None:
    """Enter the context once and stay in it: the backward pass needs it too, and happens after the call."""
    if not _entered:
        library._cp_options.enable_load_balance = balanced
        library.set_rotate_method(method)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        positions = torch.arange(2 * dist.get_world_size(), device=device)
        _entered.append(context_parallel(mesh, buffers=[positions], buffer_seq_dims=[0]))
        _entered[0].__enter__()


def attend(query, key, value, *, is_causal, scale, method="allgather", balanced=False, **_):
    enter(query.device, method, balanced)
    heads_first = (tensor.transpose(1, 2).contiguous() for tensor in (query, key, value))
    # The context replaces fused kernels, and not the plain one, which torch would choose for what they do not take.
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(*heads_first, is_causal=is_causal, scale=scale).transpose(1, 2)


def attend_all_to_all(query, key, value, **options):
    return attend(query, key, value, method="alltoall", **options)


def attend_balanced(query, key, value, **options):
    return attend(query, key, value, balanced=True, **options)


class Ring(torch.autograd.Function):
    """The ring inside context_parallel on torch's fused kernel for the CPU, which the context does not dispatch to."""

    @staticmethod
    def forward(ctx, query, key, value, is_causal, scale, group, options):
        ctx.save_options = options
        with configured(*options):
            out, lse = library._templated_ring_attention(
                group,
                2,
                torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
                query,
                key,
                value,
                is_causal=is_causal,
                scale=scale,
            )
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.is_causal, ctx.scale, ctx.group = is_causal, scale, group
        return out

    @staticmethod
    def backward(ctx, grad_out):
        query, key, value, out, lse = ctx.saved_tensors
        with configured(*ctx.save_options):
            grads = library._templated_ring_attention_backward(
                ctx.group,
                2,
                torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward,
                grad_out.contiguous(),
                "grad_out",
                query,
                key,
                value,
                out,
                lse,
                ctx.is_causal,
                dropout_p=0.0,
                scale=ctx.scale,
            )
        return *grads, None, None, None, None


class configured:
    """The library's options, set for a while."""

    def __init__(self, method: str, balanced: bool) -> None:
        self.method, self.balanced = method, balanced

    def __enter__(self) -> None:
        library.set_rotate_method(self.method)
        self.before = library._cp_options.enable_load_balance
        library._cp_options.enable_load_balance = self.balanced

    def __exit__(self, *_: object) -> None:
        library._cp_options.enable_load_balance = self.before


def attend_on_cpu(query, key, value, *, is_causal, scale, group, method="allgather", balanced=False, **_):
    # The kernel takes for granted that dims are next to each other; scaled_dot_product_attention looks before it calls.
    heads_first = (tensor.transpose(1, 2).contiguous() for tensor in (query, key, value))
    group = group or dist.group.WORLD
    return Ring.apply(*heads_first, is_causal, scale, group, (method, balanced)).transpose(1, 2)


def attend_on_cpu_all_to_all(query, key, value, **options):
    return attend_on_cpu(query, key, value, method="alltoall", **options)


def attend_on_cpu_balanced(query, key, value, **options):
    return attend_on_cpu(query, key, value, balanced=True, **options)


def even_halves(case: attention_gate.Case) -> attention_gate.Case:
    """Two chunks of one length on each rank."""
    length = case.length + -case.length % (2 * case.shards)
    return case.replace(length=length, segment_lengths=(length,))


def eight_dims(case: attention_gate.Case) -> attention_gate.Case:
    """Head dimensions that the fused kernels on a GPU take."""
    dim = -(-case.head_dim // 8) * 8
    return case.replace(head_dim=dim, value_dim=dim)


def eight_dims_and_even_halves(case: attention_gate.Case) -> attention_gate.Case:
    return even_halves(eight_dims(case))


LIMITS = {
    "branches": "dense",
    "value_dim": False,
    "uneven": False,
    "grouped_query": False,
    "refusals": False,
}
BECAUSE = {
    "branches": "it is dense attention",
    "value_dim": "the fused kernels want one head_dim",
    "uneven": "equal shards, by its documentation",
    "grouped_query": "keys are repeated by the caller",
    "refusals": "arguments are not checked",
}
ON_CPU = LIMITS | {"dtypes": ("float32", "bfloat16", "float16"), "scales": False}
ON_GPU = LIMITS | {"dtypes": ("bfloat16", "float16"), "subgroups": False, "scales": False, "fit": eight_dims}
WHY_CPU = BECAUSE | {
    "dtypes": "partial outputs are merged in float32",
    "scales": "the kernel for the CPU returns NaN under a causal mask for scale <= 0",
}
WHY_GPU = BECAUSE | {
    "dtypes": "flash kernels take half types",
    "subgroups": "one context for all ranks",
    "scales": "kernels for half types return NaN for scale <= 0",
    "fit": "the kernels want head_dim in eights",
}
BALANCED = {"layout": "zigzag", "masks": (True,)}
WHY_BALANCED = {"layout": "head and tail", "masks": "it balances the work of a causal mask"}

all_gather = attention_gate.Target(attend=attend, **ON_GPU, because=WHY_GPU)
all_to_all = attention_gate.Target(attend=attend_all_to_all, **ON_GPU, because=WHY_GPU)
balanced = attention_gate.Target(
    attend=attend_balanced,
    **ON_GPU | BALANCED | {"fit": eight_dims_and_even_halves},
    because=WHY_GPU | WHY_BALANCED,
)
cpu_all_gather = attention_gate.Target(attend=attend_on_cpu, **ON_CPU, because=WHY_CPU)
cpu_all_to_all = attention_gate.Target(attend=attend_on_cpu_all_to_all, **ON_CPU, because=WHY_CPU)
cpu_balanced = attention_gate.Target(
    attend=attend_on_cpu_balanced,
    **ON_CPU | BALANCED | {"fit": even_halves},
    because=WHY_CPU | WHY_BALANCED | {"fit": "two equal chunks on each rank"},
)
