"""Others through the same contract, to be compared: PyTorch's context_parallel on cuDNN's kernels and on FlexAttention.

Both implementations are here too, with the optional terms that workloads have.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._context_parallel import _attention as library
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from attention_gate import Case, Target
from attention_gate.impls import collective, kernels, robust

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


def flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_causal: bool,
    window: tuple[int | None, int | None] | None = None,
    document_lengths: tuple[int, ...] | None = None,
    **_: Any,
) -> Tensor:
    """context_parallel for FlexAttention, keys and values gathered."""
    mask = _block_mask(query.shape[1], query.device, is_causal, window or (None, None), document_lengths)
    queries, keys, values = (tensor.transpose(1, 2) for tensor in (query, key, value))
    gathered = library.flex_cp_allgather(keys, values, 2, dist.group.WORLD.group_name)  # type: ignore[union-attr]
    out = _compiled()(queries, *gathered, block_mask=mask)
    assert isinstance(out, Tensor)
    return out.transpose(1, 2)


@lru_cache(maxsize=1)
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=False)


@lru_cache(maxsize=8)
def _block_mask(
    rows: int,
    device: torch.device,
    is_causal: bool,
    window: tuple[int | None, int | None],
    lengths: tuple[int, ...] | None,
) -> BlockMask:
    """Return what a rank's queries see, by blocks, which does not change from call to call."""
    size = dist.get_world_size()
    whole = rows * size
    library._cp_options.enable_load_balance = True
    (left, right), right_most = window, 0 if is_causal else whole
    before, after = whole if left is None else left, min(right_most, whole if right is None else right)
    counts = torch.tensor(lengths or (whole,), device=device)
    document = torch.arange(len(counts), device=device).repeat_interleave(counts)

    def seen(_batch: Tensor, _head: Tensor, x: Tensor, j: Tensor) -> Tensor:
        return (x - before <= j) & (j <= x + after) & (document[x] == document[j])

    create = getattr(library, "_create_cp_block_mask", None) or library.create_cp_block_mask
    made: BlockMask = create(seen, 1, 1, whole, whole, init_device_mesh(device.type, (size,)))
    return made


def zigzag(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    """Robust in the zigzag layout."""
    return robust.attend(query, key, value, layout="zigzag", **options)


def zigzag_on_cudnn(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    """Robust in the zigzag layout on cuDNN's kernels, whatever else is installed: those of context_parallel here."""
    with kernels("cudnn"):
        return robust.attend(query, key, value, layout="zigzag", **options)


def by_document(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    """Robust, each packed document shared by itself; without any the sequence is one."""
    options.setdefault("document_lengths", [query.shape[1] * dist.get_world_size()])
    return robust.attend(query, key, value, layout="document-zigzag", **options)


_TERMS = ("window", "documents")

context_parallel_all_gather = Target(attend=all_gather, branches="dense", layout="zigzag", dtypes=("bfloat16",))
context_parallel_all_to_all = Target(attend=all_to_all, branches="dense", layout="zigzag", dtypes=("bfloat16",))
context_parallel_flex = Target(attend=flex, branches="dense", layout="zigzag", dtypes=("bfloat16",), terms=_TERMS)
ring = Target(attend=robust.attend, terms=_TERMS)
gathering = Target(attend=collective.attend, terms=_TERMS)
robust_zigzag = Target(attend=zigzag, layout="zigzag", terms=_TERMS)
robust_zigzag_cudnn = Target(attend=zigzag_on_cudnn, branches="dense", layout="zigzag", dtypes=("bfloat16",))


def _with_documents(case: Case) -> Case:
    return case if case.document_lengths is not None else case.replace(document_lengths=(case.length,))


robust_by_document = Target(attend=by_document, layout="document-zigzag", terms=_TERMS, fit=_with_documents)
