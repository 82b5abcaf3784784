"""PyTorch's context parallelism for FlexAttention, a prototype by its own words: block masks over gathered keys.

python -m attention_gate gate examples/torch_flex_context_parallel_target.py:target --profile quick
python -m attention_gate gate examples/torch_flex_context_parallel_target.py:head_tail --profile quick

Part of torch. On a CPU it runs as torch defines it, without torch.compile.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.experimental import _context_parallel as library
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.attention import flex_attention as flex

import attention_gate

BLOCK = 128

# It refuses gradients on a CPU for want of a kernel; torch's definition has a backward pass, which a CPU can run.
flex._validate_device = lambda query, key, value: None


class Attention(torch.nn.Module):
    """What the library parallelizes: a module that calls flex_attention."""

    def forward(self, query, key, value, score_mod=None, block_mask=None, **options):
        options |= {"score_mod": score_mod, "block_mask": block_mask}
        grouped = query.shape[1] != key.shape[1]
        return flex.flex_attention(query, key, value, enable_gqa=grouped, **options)


def seen_by(rows, is_causal, window, document_lengths, mask, device):
    """The terms as one function of positions in the whole sequence, before the library moves any row."""
    left, right = (rows if bound is None else bound for bound in window or (None, None))
    right = 0 if is_causal else right
    lengths = torch.tensor([rows] if document_lengths is None else document_lengths, dtype=torch.int64, device=device)
    documents = torch.full((rows,), -1, device=device)
    documents[: int(lengths.sum())] = torch.arange(len(lengths), device=device).repeat_interleave(lengths)

    def seen(_batch, head, x, j):
        near = (x - left <= j) & (j <= x + right) & (documents[x] == documents[j]) & (documents[x] >= 0)
        return near if mask is None else near & mask(head, x, j)

    return seen


def scored_by(softcap, slopes, query):
    """The terms that change scores. The library passes this on as it is: x counts the rows of one rank alone."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    steep = None if slopes is None else torch.tensor(slopes, dtype=dtype, device=query.device)

    def score_mod(score, _batch, head, x, j):
        score = score if softcap is None else softcap * torch.tanh(score / softcap)
        return score if steep is None else score - steep[head] * (x - j).abs()

    return None if softcap is None and slopes is None else score_mod


def attend(
    query,
    key,
    value,
    *,
    is_causal,
    scale,
    group,
    window=None,
    document_lengths=None,
    mask=None,
    softcap=None,
    slopes=None,
    return_lse=False,
    balancer=None,
    **_,
):
    mesh = DeviceMesh.from_group(group or dist.group.WORLD, query.device.type)
    rows = query.shape[1] * mesh.size()
    seen = seen_by(rows, is_causal, window, document_lengths, mask, query.device)
    heads = 1 if mask is None else query.shape[2]
    # Each call would be compiled anew, since each has another mask: torch's own definition is called instead.
    with torch.compiler.set_stance("force_eager"):
        whole = flex.create_block_mask(seen, 1, heads, rows, rows, device=query.device)
        moved = None if balancer is None else balancer(whole, document_lengths, mesh.size())
        [own] = library._context_parallel_shard(mesh, [whole], [2], moved)
        style = library._ContextParallel(seq_dim=2, attention_type=library._ContextParallel.AttentionType.FLEX)
        out, aux = parallelize_module(Attention(), mesh, style)(
            *(tensor.transpose(1, 2) for tensor in (query, key, value)),
            block_mask=own,
            scale=scale,
            score_mod=scored_by(softcap, slopes, query),
            return_aux=flex.AuxRequest(lse=True),
        )
    out = out.transpose(1, 2)
    return (out, aux.lse) if return_lse else out


# The balancers of the library. Each rank's rows are those that _context_parallel_shard would give it.


def head_and_tail(whole, document_lengths, size):
    return library._HeadTailLoadBalancer(whole.seq_lengths[0], size, whole.kv_num_blocks.device)


def all_documents(rows, document_lengths):
    """The documents, and the rows after the last of them as one more."""
    lengths = [rows] if document_lengths is None else list(document_lengths)
    return [*lengths, rows - sum(lengths)]


def head_and_tail_of_each(whole, document_lengths, size):
    lengths = all_documents(whole.seq_lengths[0], document_lengths)
    return library._PerDocumentHeadTailLoadBalancer([lengths], size, whole.kv_num_blocks.device)


def by_time(whole, document_lengths, size):
    return library._PTRRLoadBalancer(whole, size)


def attend_head_tail(query, key, value, *, return_lse=False, **options):
    return attend(query, key, value, return_lse=return_lse, balancer=head_and_tail, **options)


def attend_by_document(query, key, value, *, return_lse=False, **options):
    return attend(query, key, value, return_lse=return_lse, balancer=head_and_tail_of_each, **options)


def attend_by_time(query, key, value, *, return_lse=False, **options):
    return attend(query, key, value, return_lse=return_lse, balancer=by_time, **options)


def documents_then_ranks(rank, world_size, length, document_lengths=None):
    """Each document's rows, head and tail for rank 0, then for rank 1, …; one after the other, cut into equal parts."""
    first, order = 0, []
    for rows in all_documents(length, document_lengths):
        chunks = np.split(np.arange(first, first + rows), 2 * world_size)
        order += [chunks[at] for r in range(world_size) for at in (r, 2 * world_size - 1 - r)]
        first += rows
    return np.split(np.concatenate(order), world_size)[rank]


@functools.lru_cache(maxsize=64)
def scheduled(length, world_size, document_lengths):
    seen = seen_by(length, True, None, document_lengths, None, "cpu")
    whole = flex.create_block_mask(seen, 1, 1, length, length, device="cpu")
    return library._PTRRLoadBalancer(whole, world_size)._generate_indices()[0].numpy()


def blocks_by_time(rank, world_size, length, document_lengths=None):
    """Whole blocks, dealt out by how many blocks of keys they see: the library's own order."""
    lengths = None if document_lengths is None else tuple(document_lengths)
    return np.split(scheduled(length, world_size, lengths), world_size)[rank]


def whole_blocks(case: attention_gate.Case) -> attention_gate.Case:
    """As many whole blocks on each rank."""
    length = case.length + -case.length % (BLOCK * case.shards)
    return case.replace(length=length, segment_lengths=(max(length, 1),))


def blocks_and_halves(case: attention_gate.Case) -> attention_gate.Case:
    """Two equal parts of each document for each rank, and as many whole blocks on each."""
    if case.document_lengths is None:
        return whole_blocks(case)
    lengths = tuple(rows + -rows % (2 * case.shards) for rows in case.document_lengths)
    length = max(case.length, sum(lengths))
    return whole_blocks(case.replace(length=length + -length % case.shards, document_lengths=lengths))


TERMS = ("window", "documents", "mask", "softcap")
LIMITS = {"branches": "dense", "uneven": False, "refusals": False, "fit": whole_blocks}
BECAUSE = {
    "branches": "it is dense attention",
    "uneven": "equal shards, by its documentation",
    "refusals": "arguments are not checked",
    "fit": "whole blocks of 128 rows on each rank, by its documentation",
}
DOCUMENTS = {"terms": ("documents",), "masks": (True,)}

target = attention_gate.Target(attend=attend, terms=TERMS, **LIMITS, because=BECAUSE)
head_tail = attention_gate.Target(
    attend=attend_head_tail,
    layout="zigzag",
    terms=TERMS,
    **LIMITS,
    because=BECAUSE | {"layout": "its default: head and tail"},
)
by_document = attention_gate.Target(
    attend=attend_by_document,
    layout=documents_then_ranks,
    terms=TERMS,
    **LIMITS | {"fit": blocks_and_halves},
    because=BECAUSE | {"layout": "head and tail of each document", "fit": "whole blocks, equal parts of each document"},
)
round_robin = attention_gate.Target(
    attend=attend_by_time,
    layout=blocks_by_time,
    **LIMITS | DOCUMENTS,
    because=BECAUSE
    | {
        "layout": "blocks dealt out by the time they take",
        "masks": "which rows a rank owns depends on what is seen: here causal documents",
    },
)
slopes = attention_gate.Target(attend=attend, terms=("slopes",), **LIMITS, because=BECAUSE)
