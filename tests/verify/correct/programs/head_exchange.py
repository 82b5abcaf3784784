"""Cross-attention by exchanging heads, as in DeepSpeed's Ulysses, for any numbers of queries, keys and heads.

One all_to_all turns "my rows of all heads" into "all rows of my heads", separately sized for queries and for keys. Each
rank then attends for its own group of kv heads and the query heads that read them, over the whole sequence; a second
all_to_all takes the output back. Both are one autograd Function, whose backward pass is the opposite exchange. Rows that
every rank has do not travel: a rank takes its own heads of them, so their gradient is split over the ranks by heads.
"""

import torch
import torch.distributed as dist


def pieces(total, count):
    """The sizes into which torch.tensor_split cuts a total."""
    small, longer = divmod(total, count)
    return [small + (number < longer) for number in range(count)]


def all_to_all(blocks, shapes, group):
    """Sends block r to rank r; what comes from rank r has shape r."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    sent = torch.cat([block.reshape(-1) for block in blocks])
    received = sent.new_empty(sum(sizes))
    dist.all_to_all_single(received, sent, sizes, [block.numel() for block in blocks], group=group)
    return [flat.view(shape) for flat, shape in zip(received.split(sizes), shapes)]


def rows_to_heads(tensor, rows, heads, group):
    """From (batch, my rows, all heads, dim) to (batch, all rows, my heads, dim)."""
    batch, _, _, dim = tensor.shape
    mine = heads[dist.get_rank(group)]
    shapes = [(batch, count, mine, dim) for count in rows]
    return torch.cat(all_to_all(tensor.split(heads, dim=2), shapes, group), dim=1)


def heads_to_rows(tensor, rows, heads, group):
    """From (batch, all rows, my heads, dim) to (batch, my rows, all heads, dim)."""
    batch, _, _, dim = tensor.shape
    mine = rows[dist.get_rank(group)]
    shapes = [(batch, mine, count, dim) for count in heads]
    return torch.cat(all_to_all(tensor.split(rows, dim=1), shapes, group), dim=2)


class Exchange(torch.autograd.Function):
    """Moves several tensors, one after the other; backward moves their gradients the other way."""

    @staticmethod
    def forward(ctx, there, back, plans, group, *tensors):
        ctx.way, ctx.plans, ctx.group = (back, there), plans, group
        return tuple(there(tensor, *plan, group) for tensor, plan in zip(tensors, plans))

    @staticmethod
    def backward(ctx, *grads):
        back = ctx.way[0]
        return None, None, None, None, *(back(grad, *plan, ctx.group) for grad, plan in zip(grads, ctx.plans))


def local_attention(query, key, value, scale, is_causal):
    """Output and lse of all queries, the last of which stands at the last key."""
    queries, keys = query.shape[1], key.shape[1]
    groups = query.shape[2] // max(key.shape[2], 1)
    key, value = key.repeat_interleave(groups, dim=2), value.repeat_interleave(groups, dim=2)
    scores = torch.einsum("bihd,bjhd->bhij", query, key) * scale
    if is_causal:
        stands = torch.arange(queries, device=query.device)[:, None] + keys - queries
        scores = scores.masked_fill(torch.arange(keys, device=query.device) > stands, -torch.inf)
    lse = scores.detach().logsumexp(-1)
    floor = lse.masked_fill(lse == -torch.inf, 0.0)
    weights = (scores - floor[..., None]).exp()
    mass = weights.sum(-1, keepdim=True)
    weights = weights / mass.masked_fill(mass == 0, 1.0)
    return torch.einsum("bhij,bjhd->bihd", weights, value), lse


def attend(
    query, key, value, *, is_causal=False, scale=None, sequence_length=None, query_length=None, group=None,
    joint_key=None, joint_value=None, joint=None, return_lse=False, **_,
):
    world_size, rank = dist.get_world_size(group), dist.get_rank(group)
    heads, kv_heads = query.shape[2], key.shape[2]
    total_keys = world_size * key.shape[1] if sequence_length is None else sequence_length
    total_queries = total_keys if query_length is None else query_length
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query_rows, key_rows = pieces(total_queries, world_size), pieces(total_keys, world_size)
    kv_share = pieces(kv_heads, world_size)
    share = [count * (heads // kv_heads) for count in kv_share]

    plans = ((query_rows, share), (key_rows, kv_share), (key_rows, kv_share))
    moved = Exchange.apply(rows_to_heads, heads_to_rows, plans, group, query, key, value)
    wide = torch.promote_types(query.dtype, torch.float32)
    whole_query, whole_key, whole_value = (tensor.to(wide) for tensor in moved)
    if joint is not None:
        first = sum(kv_share[:rank])
        extra_key, extra_value = (rows[:, :, first : first + kv_share[rank]].to(wide) for rows in (joint_key, joint_value))
        order = slice(None, None, 1 if joint == "front" else -1)
        whole_key = torch.cat((extra_key, whole_key)[order], dim=1)
        whole_value = torch.cat((extra_value, whole_value)[order], dim=1)

    with torch.autocast(query.device.type, enabled=False):
        out, lse = local_attention(whole_query, whole_key, whole_value, scale, is_causal)
    (out,) = Exchange.apply(heads_to_rows, rows_to_heads, ((query_rows, share),), group, out.to(query.dtype))
    if not return_lse:
        return out
    lse = heads_to_rows(lse.transpose(1, 2)[..., None], query_rows, share, group)
    return out, lse[..., 0].transpose(1, 2).contiguous()
