"""Other rings through the same contract, to be compared: PyTorch's context_parallel on cuDNN's kernels."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._context_parallel import _attention as library
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_gate import Target
from attention_gate.impls import robust

_entered: list[Any] = []


def _attend(method: str, query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
    if not _entered:
        # Balanced, as it is by default; the rows are its own affair here, where only time and memory are looked at.
        library.set_rotate_method(method)
        mesh = init_device_mesh(query.device.type, (dist.get_world_size(),))
        positions = torch.arange(2 * dist.get_world_size(), device=query.device)
        _entered.append(context_parallel(mesh, buffers=[positions], buffer_seq_dims=[0]))
        _entered[0].__enter__()
    library._cp_options.enable_load_balance = is_causal
    heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(*heads_first, is_causal=is_causal).transpose(1, 2)


def all_gather(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool, **_: Any) -> Tensor:
    """context_parallel, keys and values gathered."""
    return _attend("allgather", query, key, value, is_causal)


def all_to_all(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool, **_: Any) -> Tensor:
    """context_parallel, keys and values rotated."""
    return _attend("alltoall", query, key, value, is_causal)


def zigzag(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    """Robust in the zigzag layout."""
    return robust.attend(query, key, value, layout="zigzag", **options)


context_parallel_all_gather = Target(attend=all_gather, branches="dense", layout="zigzag", dtypes=("bfloat16",))
context_parallel_all_to_all = Target(attend=all_to_all, branches="dense", layout="zigzag", dtypes=("bfloat16",))
robust_zigzag = Target(attend=zigzag, layout="zigzag")
