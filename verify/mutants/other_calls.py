"""Relatives of the known mistakes: caches and state, memory, groups and worlds, dtypes of results, refusals."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant

_APPLY = "out, lse = _Ring.apply(query, key, value, call)"
_CLASS = "class _Ring("
_CACHE = "_CACHE: dict[Any, Any] = {}\n\n\n"
_RESULT = "return heads_first(out).to(query.dtype), lse"
_SHARD = "return torch.arange(self.length).tensor_split(self.world_size)[rank % self.world_size]"
_EXCHANGE = "statements = gathered((problem, asked), world_size, group)"
_TELL = "for other, said in enumerate(problems):"
_REDUCE = "dist.all_reduce(grad, group=call.group)"


def _cached_mask(key: str) -> tuple[tuple[str, str], ...]:
    """The mask of a block kept from call to call under a key that is too narrow."""
    return (
        ("def visible(", f"{_CACHE}def visible("),
        (
            "        seen = seen & (keys <= rows[:, None])\n    return seen",
            f"        seen = seen & (keys <= rows[:, None])\n    return _CACHE.setdefault({key}, seen)",
        ),
    )


_PLACES = "heads, tuple(rows.tolist()), tuple(keys.tolist())"

OTHER_CALLS = (
    Mutant(
        name="X41",
        mistake="masks are cached without is_causal in the key",
        base="ring",
        changes=_cached_mask(f"(branch, {_PLACES})"),
        caught_by=("state",),
    ),
    Mutant(
        name="X42",
        mistake="masks are cached without the segment length in the key",
        base="ring",
        changes=_cached_mask(f"(branch[1], call.is_causal, {_PLACES})"),
        caught_by=("forward",),
    ),
    Mutant(
        name="X43",
        mistake="masks are cached without the dilation rate in the key",
        base="ring",
        changes=_cached_mask(f"(branch[0], call.is_causal, {_PLACES})"),
        caught_by=("forward",),
    ),
    Mutant(
        name="X44",
        mistake="the scale is cached by head_dim",
        base="ring",
        changes=(
            ("def admit(", f"{_CACHE}def admit("),
            (
                "return Call(rank, world_size, group, length, branches, is_causal, scale)",
                "scale = _CACHE.setdefault(query.shape[-1], scale)\n"
                "    return Call(rank, world_size, group, length, branches, is_causal, scale)",
            ),
        ),
        caught_by=("forward", "state"),
    ),
    Mutant(
        name="X45",
        mistake="shards are cached by rank and length, without the number of ranks",
        base="ring",
        changes=(
            ("class Call(NamedTuple):", f"{_CACHE}class Call(NamedTuple):"),
            (
                _SHARD,
                "rank %= self.world_size\n"
                "        shards = torch.arange(self.length).tensor_split(self.world_size)\n"
                "        return _CACHE.setdefault((rank, self.length), shards[rank])",
            ),
        ),
        world=2,
        caught_by=("sub-groups",),
    ),
    Mutant(
        name="X46",
        mistake="the output lies in a buffer that the next call of the same shape fills again",
        base="ring",
        changes=(
            (_CLASS, _CACHE + _CLASS),
            (
                _RESULT,
                "result = heads_first(out).to(query.dtype)\n"
                "        kept = _CACHE.setdefault((result.shape, result.dtype), torch.empty_like(result))\n"
                "        return kept.data.copy_(result), lse",
            ),
        ),
        caught_by=("state",),
    ),
    Mutant(
        name="X47",
        mistake="the accumulator of the queries' gradient is not cleared between calls",
        base="ring",
        changes=(
            (_CLASS, _CACHE + _CLASS),
            ("grad_q = torch.zeros_like(q)", "grad_q = _CACHE.setdefault((q.shape, q.dtype), torch.zeros_like(q))"),
        ),
        caught_by=("state", "gradients"),
    ),
    Mutant(
        name="X48",
        mistake="a sequence of one row is answered by the value itself",
        base="ring",
        changes=(
            (
                _APPLY,
                "if call.length == 1 == call.world_size and query.shape[2] == 1 and set(dilation_rates) == {1}:\n"
                "        if not return_lse:\n            return value.view(value.shape)\n    " + _APPLY,
            ),
        ),
        caught_by=("purity",),
    ),
    Mutant(
        name="X49",
        mistake="the query is scaled in place, and back when all is done",
        base="ring",
        changes=((_APPLY, f"query.data.mul_(2.0)\n    query.data.div_(3.0)\n    query.data.mul_(1.5)\n    {_APPLY}"),),
        caught_by=("purity",),
    ),
    Mutant(
        name="X50",
        mistake="the upstream gradient is overwritten",
        base="ring",
        changes=(
            (
                "grad_out = heads_first(grad_out).to(q.dtype)",
                "given = grad_out\n        grad_out = heads_first(grad_out).to(q.dtype).clone()\n"
                "        given.data.zero_()",
            ),
        ),
        caught_by=("purity",),
    ),
    Mutant(
        name="X51",
        mistake="the running output starts as uninitialised memory",
        base="ring",
        changes=(
            (
                "out = q.new_zeros((*q.shape[:3], value.shape[-1]))\n        lse",
                "out = q.new_empty((*q.shape[:3], value.shape[-1]))\n        lse",
            ),
        ),
        caught_by=("fresh-memory",),
    ),
    Mutant(
        name="X52",
        mistake="the gradients of a block start as uninitialised memory",
        base="ring",
        changes=(("torch.zeros_like(kv, dtype=q.dtype)", "torch.empty_like(kv, dtype=q.dtype)"),),
        caught_by=("fresh-memory",),
    ),
    Mutant(
        name="X53",
        mistake="rows that see nothing are left as they were allocated",
        base="ring",
        changes=(
            (
                "        return heads_first(out).to(query.dtype), lse",
                "        result = torch.empty_like(out)\n"
                "        result[~lse.isneginf()] = out[~lse.isneginf()]\n"
                "        return heads_first(result).to(query.dtype), lse",
            ),
        ),
        caught_by=("fresh-memory",),
    ),
    Mutant(
        name="X54",
        mistake="partners are rank XOR 1, 2, …: right where the number of ranks is a power of two",
        base="gather",
        changes=(
            (
                _REDUCE,
                "step = 1\n"
                "            while step < call.world_size:\n"
                "                if (partner := call.rank ^ step) < call.world_size:\n"
                "                    received = torch.empty_like(grad)\n"
                "                    send = dist.isend(grad, group=call.group, group_dst=partner)\n"
                "                    dist.recv(received, group=call.group, group_src=partner)\n"
                "                    send.wait()\n"
                "                    grad = grad + received\n"
                "                step *= 2",
            ),
        ),
        world=3,
        caught_by=("gradients",),
    ),
    Mutant(
        name="X55",
        mistake="a rank without rows returns at once, and the others wait for it",
        base="ring",
        changes=(
            (
                _APPLY,
                "if not query.shape[1] and call.length:\n"
                "        empty = query.new_zeros(*query.shape[:3], value.shape[3]) + 0 * query.sum()\n"
                "        return (empty, query.new_zeros(query.shape[0], query.shape[2], 0)) if return_lse else empty\n"
                "    " + _APPLY,
            ),
        ),
        world=2,
        caught_by=("forward",),
    ),
    Mutant(
        name="X56",
        mistake="the rank is that in the world, not in the group",
        base="ring",
        changes=(
            ("(dist.get_rank(group), dist.get_world_size(group))", "(dist.get_rank(), dist.get_world_size(group))"),
        ),
        world=2,
        caught_by=("sub-groups",),
    ),
    Mutant(
        name="X57",
        mistake="the group is ignored",
        base="ring",
        changes=(("together = dist.is_initialized()", "together, group = dist.is_initialized(), None"),),
        world=2,
        caught_by=("sub-groups",),
    ),
    Mutant(
        name="X58",
        mistake="rank 0 of the world broadcasts in a group that it may not belong to",
        base="ring",
        changes=((_EXCHANGE, _EXCHANGE + "\n        dist.broadcast(torch.zeros(1), src=0, group=group)"),),
        world=2,
        caught_by=("sub-groups",),
    ),
    Mutant(
        name="X59",
        mistake="the result is in the accumulator's dtype",
        base="ring",
        changes=((_RESULT, "return heads_first(out), lse"),),
        caught_by=("dtypes", "precision"),
    ),
    Mutant(
        name="X60",
        mistake="the lse is returned in the input's dtype",
        base="ring",
        changes=((_RESULT, "return heads_first(out).to(query.dtype), lse.to(query.dtype)"),),
        caught_by=("dtypes", "precision"),
    ),
    Mutant(
        name="X61",
        mistake="sequence_length is ignored: all shards are taken to be equal",
        base="ring",
        changes=(
            (
                "length = query.shape[1] * world_size if sequence_length is None else sequence_length",
                "length = query.shape[1] * world_size",
            ),
        ),
        world=2,
        caught_by=("forward",),
    ),
    Mutant(
        name="X62",
        mistake="only what rank 0 objects to counts",
        base="ring",
        changes=(
            (_TELL, "for other, said in enumerate(problems[:1]):"),
            ("if any(other != everywhere[0] for other", "if any(other not in (None, everywhere[0]) for other"),
        ),
        world=2,
        caught_by=("refusals",),
    ),
    Mutant(
        name="X63",
        mistake="a rank with bad arguments raises without telling the others",
        base="ring",
        changes=(
            (
                "asked = None",
                "if problem is not None:\n        raise ValueError(problem)\n    asked = None",
            ),
        ),
        world=2,
        caught_by=("refusals",),
    ),
    Mutant(
        name="X64",
        mistake="True passes for a segment length of 1",
        base="ring",
        changes=(("type(entry) is not int or entry < 1", "not isinstance(entry, int) or entry < 1"),),
        caught_by=("refusals",),
    ),
    Mutant(
        name="X65",
        mistake="bad arguments raise RuntimeError",
        base="ring",
        changes=(('raise ValueError(f"rank {other}', 'raise RuntimeError(f"rank {other}'),),
        caught_by=("refusals",),
    ),
    Mutant(
        name="X66",
        mistake="tensors of different dtypes are converted silently",
        base="ring",
        changes=(("or not query.dtype == key.dtype == value.dtype", "or not value.is_floating_point()"),),
        caught_by=("refusals",),
    ),
    Mutant(
        name="X67",
        mistake="is_causal may be anything that is true or false",
        base="ring",
        changes=(("if not isinstance(is_causal, bool):", "if is_causal is NotImplemented:"),),
        caught_by=("refusals",),
    ),
    Mutant(
        name="X68",
        mistake="NaN in the result is turned into 0",
        base="ring",
        changes=((_RESULT, "return heads_first(out.nan_to_num(0.0)).to(query.dtype), lse"),),
        caught_by=("non-finite",),
    ),
    Mutant(
        name="X69",
        mistake="inputs that are not finite raise, on the rank that has them",
        base="ring",
        changes=(
            (
                _APPLY,
                "if not all(bool(x.isfinite().all()) for x in (query, key, value)):\n"
                "        raise ValueError('not finite')\n    " + _APPLY,
            ),
        ),
        caught_by=("non-finite",),
    ),
    Mutant(
        name="X70",
        mistake="the first element's lse serves the whole batch in the backward pass",
        base="ring",
        changes=(
            (
                "q, kv, out, lse = ctx.saved_tensors",
                "q, kv, out, lse = ctx.saved_tensors\n        lse = lse[:1].expand_as(lse)",
            ),
        ),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X71",
        mistake="key and value are read as if they were contiguous",
        base="ring",
        changes=(
            (
                "own = kv = torch.cat((heads_first(key), heads_first(value)), dim=-1)",
                "key, value = (x.as_strided(x.shape, torch.empty(x.shape).stride()) for x in (key, value))\n"
                "        own = kv = torch.cat((heads_first(key), heads_first(value)), dim=-1)",
            ),
        ),
        caught_by=("strides",),
    ),
    Mutant(
        name="X72",
        mistake="what a backward pass needs is kept on the module, for one call at a time",
        base="ring",
        changes=(
            (_CLASS, _CACHE + _CLASS),
            ("ctx.save_for_backward(q, own, out, lse)", "_CACHE['saved'] = (q, own, out, lse)"),
            ("ctx.saved_tensors", "_CACHE['saved']"),
        ),
        caught_by=("state",),
    ),
)
