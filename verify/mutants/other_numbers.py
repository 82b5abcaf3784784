"""Relatives of the known mistakes: results and sums that pass through a narrower dtype than theirs."""

from __future__ import annotations

from verify.mutants.mutant import Mutant

_GRADIENTS = "heads_first(grad).to(dtype) for"
_RESULT = "return heads_first(out).to(query.dtype), lse"
_KV_SUM = "grad_kv += block_kv\n"
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
)
