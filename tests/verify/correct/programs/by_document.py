"""One document after another over gathered rows, by torch's own scaled_dot_product_attention and its boolean masks.

Rows of keys that every rank has are put before or after the gathered ones; their gradients are those of own queries.
Limits: dense attention; float64 and float32, as the masked kernels of torch round their sums in half types.
"""
import torch
import torch.distributed as dist
import torch.nn.functional as F

from attention_gate import gather_rows


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None, document_lengths=None, query_length=None, query_lengths=None, joint_key=None, joint_value=None,
           joint=None):
    rank, size = (dist.get_rank(group), dist.get_world_size(group)) if dist.is_initialized() else (0, 1)
    keys, values = gather_rows(key, value, sequence_length=sequence_length, group=group)
    n_q = query_length if query_length is not None else keys.shape[1]
    if joint_key is not None:
        order = (lambda extra, rows: (extra, rows)) if joint == "front" else (lambda extra, rows: (rows, extra))
        keys, values = torch.cat(order(joint_key, keys), 1), torch.cat(order(joint_value, values), 1)
    k_lengths = document_lengths if document_lengths is not None else [keys.shape[1]]
    q_lengths = query_lengths or (document_lengths if document_lengths is not None else [n_q])
    small, larger = divmod(n_q, size)
    first = rank * small + min(rank, larger)
    last = first + small + (rank < larger)

    repeat = query.shape[2] // keys.shape[2]
    q, k, v = (t.transpose(1, 2) for t in (query, keys, values))
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    rows, q0, k0 = [], 0, 0
    for q_count, k_count in zip(q_lengths, k_lengths):
        here = range(max(first, q0), max(first, q0, min(last, q0 + q_count)))
        mine = q[:, :, here.start - first:here.stop - first]
        theirs = k[:, :, k0:k0 + k_count], v[:, :, k0:k0 + k_count]
        seen = torch.ones(len(here), k_count, dtype=torch.bool)
        if is_causal:
            ahead = torch.tensor([k_count - q_count + row - q0 for row in here]).view(-1, 1)
            seen = torch.arange(k_count) <= ahead
        empty = ~seen.any(1) if k_count else torch.ones(len(here), dtype=torch.bool)
        if k_count and len(here):
            part = F.scaled_dot_product_attention(mine, *theirs, attn_mask=seen | empty[:, None], scale=scale)
            part = part.masked_fill(empty[:, None], 0.0)
        else:
            part = mine @ theirs[0].mT @ theirs[1]
        rows.append(part)
        q0, k0 = q0 + q_count, k0 + k_count
    left = q[:, :, max(q0 - first, 0):] @ k[:, :, :0].mT @ v[:, :, :0]  # of no document
    whole = torch.cat([*rows, left], 2)
    # Nothing may hide that the result depends on what it depends on: empty shards take part in the backward pass.
    whole = whole + 0.0 * (k[:, :, :0].sum() + v[:, :, :0].sum() + q[:, :, :0].sum())
    return whole.transpose(1, 2)
