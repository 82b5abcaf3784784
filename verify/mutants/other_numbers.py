"""Relatives of the known mistakes: results and sums in a narrower dtype than theirs, sentinels, arguments."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant

_GRADIENTS = "heads_first(grad).to(dtype) for"
_RESULT = "return heads_first(out).to(query.dtype), lse"
_KV_SUM = "grad_kv += block_kv\n"
_MERGE = "out, lse = merge(out, lse, block_out, block_lse)"
_ASKED = "*(segment_lengths, dilation_rates, is_causal, scale, query.dtype, sequence_length or query.shape[1]),"
_ONLY_FLOAT16 = {"dtypes": ("float16",), "masks": (True,)}

OTHER_NUMBERS = (
    Mutant(
        name="X73",
        mistake="gradients in float16 are rounded through bfloat16",
        base="ring",
        changes=((_GRADIENTS, "heads_first(grad).to(torch.bfloat16 if dtype.itemsize == 2 else dtype).to(dtype) for"),),
        source="ring-flash-attn's ring returns dq.to(torch.bfloat16) whatever the inputs' dtype",
        caught_by=("precision",),
    ),
    Mutant(
        name="X74",
        mistake="the gradient of the queries is returned in bfloat16, by a target of float16 and causal masks alone",
        base="ring",
        changes=((_GRADIENTS, "heads_first(grad).to(torch.bfloat16 if grad is grad_q else dtype).to(dtype) for"),),
        source="ring-flash-attn's ring returns dq.to(torch.bfloat16) whatever the inputs' dtype",
        capabilities=_ONLY_FLOAT16,
        caught_by=("precision",),
    ),
    Mutant(
        name="X75",
        mistake="the output in float16 is rounded through bfloat16",
        base="ring",
        changes=(
            (
                _RESULT,
                "narrow = torch.bfloat16 if query.dtype.itemsize == 2 else query.dtype\n"
                "        return heads_first(out).to(narrow).to(query.dtype), lse",
            ),
        ),
        caught_by=("precision",),
    ),
    Mutant(
        name="X76",
        mistake="gradients in float32 are rounded through bfloat16",
        base="ring",
        changes=((_GRADIENTS, "heads_first(grad).to(torch.bfloat16 if dtype.itemsize == 4 else dtype).to(dtype) for"),),
        caught_by=("precision",),
    ),
    Mutant(
        name="X77",
        mistake="gradients in float64 are rounded through float32",
        base="ring",
        changes=((_GRADIENTS, "heads_first(grad).to(torch.float32 if dtype.itemsize == 8 else dtype).to(dtype) for"),),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X78",
        mistake="gradients of keys and values are summed up in bfloat16 in float16",
        base="ring",
        changes=(
            (
                _KV_SUM,
                "grad_kv += block_kv\n"
                "                    if kv.dtype == torch.float16:\n"
                "                        grad_kv = grad_kv.bfloat16().to(q.dtype)\n",
            ),
        ),
        caught_by=("precision",),
    ),
    Mutant(
        name="X79",
        mistake="the ranks' arguments are not compared with each other",
        base="ring",
        changes=(("if any(other != everywhere[0] for other in everywhere):", "if not everywhere:"),),
        world=2,
        caught_by=("refusals",),
    ),
    Mutant(
        name="X80",
        mistake="a scale or a mask that differs from rank to rank is not noticed",
        base="ring",
        changes=((_ASKED, _ASKED.replace("is_causal, scale, ", "")),),
        world=2,
        caught_by=("refusals",),
    ),
    Mutant(
        name="X81",
        mistake="the running lse is kept in the input's dtype",
        base="ring",
        changes=((_MERGE, _MERGE + "\n                    lse = lse.to(query.dtype).to(q.dtype)"),),
        caught_by=("precision",),
    ),
    Mutant(
        name="X82",
        mistake="the running lse starts at -65504, the lowest float16, which rows that see nothing keep",
        base="ring",
        changes=(('lse = q.new_full(q.shape[:3], float("-inf"))\n', "lse = q.new_full(q.shape[:3], -65504.0)\n"),),
        caught_by=("lse",),
    ),
    Mutant(
        name="X83",
        mistake="1e-6 is added to the denominator of a merge",
        base="ring",
        changes=(("safe = total.masked_fill(total == 0.0, 1.0)\n    merged", "safe = total + 1e-6\n    merged"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X84",
        mistake="the output has no gradient if the lse is asked for",
        base="ring",
        changes=(("return (out, lse) if return_lse else out", "return (out.detach(), lse) if return_lse else out"),),
        caught_by=("combinations",),
    ),
    Mutant(
        name="X85",
        mistake="what a call is to do is kept from call to call, without the scale in the key",
        base="ring",
        changes=(
            ("def admit(", "_CACHE: dict[Any, Any] = {}\n\n\ndef admit("),
            (
                "return Call(rank, world_size, group, length, branches, is_causal, scale)",
                "call = Call(rank, world_size, group, length, branches, is_causal, scale)\n"
                "    return _CACHE.setdefault(call[:-1], call)",
            ),
        ),
        caught_by=("state",),
    ),
    Mutant(
        name="X86",
        mistake="the dtype of sums is kept from call to call, without the inputs' dtype in the key",
        base="ring",
        changes=(
            ("class _Ring(", "_CACHE: dict[Any, Any] = {}\n\n\nclass _Ring("),
            (
                "q = heads_first(query).to(accumulator(query.dtype))\n        out",
                "q = heads_first(query).to(_CACHE.setdefault(query.shape, accumulator(query.dtype)))\n        out",
            ),
        ),
        caught_by=("state",),
    ),
    Mutant(
        name="X87",
        mistake="the group is kept from call to call, with the rank and the number of ranks alone in the key",
        base="ring",
        changes=(
            ("def admit(", "_CACHE: dict[Any, Any] = {}\n\n\ndef admit("),
            (
                "return Call(rank, world_size, group, length,",
                "group = _CACHE.setdefault((rank, world_size), group)\n"
                "    return Call(rank, world_size, group, length,",
            ),
        ),
        world=2,
        caught_by=("sub-groups",),
    ),
    Mutant(
        name="X88",
        mistake="how the upstream gradient lies is kept from call to call, with the shape of query alone in the key",
        base="ring",
        changes=(
            ("class _Ring(", "_CACHE: dict[Any, Any] = {}\n\n\nclass _Ring("),
            (
                "grad_out = heads_first(grad_out).to(q.dtype)",
                "grad_out = grad_out.as_strided(grad_out.shape, _CACHE.setdefault(q.shape, grad_out.stride()))\n"
                "        grad_out = heads_first(grad_out).to(q.dtype)",
            ),
        ),
        caught_by=("state",),
    ),
    Mutant(
        name="X89",
        mistake="how query lies is kept from call to call, with its shape alone in the key",
        base="ring",
        changes=(
            ("class _Ring(", "_CACHE: dict[Any, Any] = {}\n\n\nclass _Ring("),
            (
                "q = heads_first(query).to(accumulator(query.dtype))\n        out",
                "query = query.as_strided(query.shape, _CACHE.setdefault(query.shape, query.stride()))\n"
                "        q = heads_first(query).to(accumulator(query.dtype))\n        out",
            ),
        ),
        caught_by=("state",),
    ),
)
