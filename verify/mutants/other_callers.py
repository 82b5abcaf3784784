"""Relatives of the known mistakes: shapes past a tile, and ways of calling."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant

_APPLY = "out, lse = _Ring.apply(query, key, value, call)"
_SPLIT = "    k, v = split(kv, q)\n    if not"
_SCORES = '(scale * (q @ k.mT)).masked_fill(~seen, float("-inf"))'
_RETURN_GRADS = "grads = [heads_first(grad).to(dtype) for grad in (grad_q, grad_k, grad_v)]"


def _past(condition: str) -> tuple[tuple[str, str], ...]:
    """The keys of a block in reverse order against their mask, where the condition holds."""
    return ((_SPLIT, f"    if {condition}:\n        seen = seen.flip(-1)\n{_SPLIT}"),)


OTHER_CALLERS = (
    Mutant(
        name="X90",
        mistake="more than 16 heads: the mask of a block is turned",
        base="ring",
        changes=_past("q.shape[1] > 16"),
        caught_by=("shapes",),
    ),
    Mutant(
        name="X91",
        mistake="more than two sequences: the mask of a block is turned",
        base="ring",
        changes=_past("q.shape[0] > 2"),
        caught_by=("shapes",),
    ),
    Mutant(
        name="X92",
        mistake="more than 64 rows in a half type: the mask of a block is turned",
        base="ring",
        changes=_past("kv.itemsize == 2 and q.shape[2] > 64"),
        caught_by=("shapes",),
    ),
    Mutant(
        name="X93",
        mistake="a second backward pass through the same graph gives half of the gradients",
        base="ring",
        changes=(
            (
                _RETURN_GRADS,
                "ctx.passes = getattr(ctx, 'passes', 0) + 1\n        "
                + _RETURN_GRADS.replace("heads_first(grad)", "heads_first(grad / ctx.passes)"),
            ),
        ),
        caught_by=("callers",),
    ),
    Mutant(
        name="X94",
        mistake="under no_grad the causal mask is left out",
        base="ring",
        changes=(
            (_APPLY, f"call = call._replace(is_causal=call.is_causal and torch.is_grad_enabled())\n    {_APPLY}"),
        ),
        caught_by=("callers",),
    ),
    Mutant(
        name="X95",
        mistake="the scale is a tensor of the default dtype",
        base="ring",
        changes=(
            (
                _SCORES,
                _SCORES.replace(
                    "(scale *", "(torch.tensor(scale, dtype=q.dtype if q.dtype == torch.float64 else None) *"
                ),
            ),
        ),
        caught_by=("callers",),
    ),
    Mutant(
        name="X96",
        mistake="what the backward pass needs is kept for the thread that made the call",
        base="ring",
        changes=(
            (
                "        ctx.call = call\n",
                "        ctx.place = len(_CALLS.__dict__)\n        setattr(_CALLS, str(ctx.place), call)\n",
            ),
            ("ctx.call, kv.dtype", "getattr(_CALLS, ctx.place), kv.dtype"),
            ("class _Ring(", "_CALLS = __import__('threading').local()\n\n\nclass _Ring("),
        ),
        caught_by=("callers",),
    ),
    Mutant(
        name="X97",
        mistake="what is saved for the backward pass is overwritten there",
        base="gather",
        changes=(
            (
                "    weights = torch.exp(scores - top)\n",
                "    weights = _Kept.apply(scores - top)\n",
            ),
            (
                "class Gather(",
                "class _Kept(torch.autograd.Function):\n"
                "    @staticmethod\n"
                "    def forward(ctx: Any, scores: Tensor) -> Tensor:\n"
                "        ctx.weights = torch.exp(scores)\n"
                "        return ctx.weights.clone()\n\n"
                "    @staticmethod\n"
                "    def backward(ctx: Any, grad: Tensor) -> Tensor:\n"
                "        return ctx.weights.mul_(grad)\n\n\n"
                "class Gather(",
            ),
        ),
        caught_by=("callers",),
    ),
)
