"""Calls on long sequences inside a rank: results at some rows, sums over all rows, and what each law compares.

Nothing as long as the sequence leaves the rank; the laws' derivations are in verify/long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention_gate.verify.case.branch_share import branch_share
from attention_gate.verify.case.seen_rows import sees_itself
from attention_gate.verify.rank.attended import INPUTS, Call
from attention_gate.verify.rank.long_inputs import PIECE, LongInputs, difference, products, sums
from attention_gate.verify.rank.tensors import values_of

Numbers = dict[str, Any]


def sample(call: Call) -> Numbers:
    """Results at some rows, and sums over all. Options: queries, keys (positions, ascending), lse, dialect.

    ``rows`` has, for each tensor, those of the wanted rows that this rank owns, in their order; ``owned`` which these
    are. ``sums`` has what the laws of sums compare, ``largest`` the largest sizes of the inputs.
    """
    inputs = LongInputs(call)
    out, lse = inputs.called()
    owned = {name: _owned(inputs, call.options[name]) for name in ("queries", "keys")}
    at = {name: torch.from_numpy(places).to(call.device) for name, (_, places) in owned.items()}
    rows = {"out": values_of(out[:, at["queries"]])}
    if lse is not None:
        rows["lse"] = values_of(lse[:, :, at["queries"]])
    found: Numbers = {
        "rows": rows,
        "owned": {name: which for name, (which, _) in owned.items()},
        "largest": {name: _largest(tensor) for name, tensor in zip(INPUTS, inputs.tensors, strict=True)},
        "dtypes": {"out": str(out.dtype).removeprefix("torch.")},
    }
    if call.cases[0].gradients:
        upstream = inputs.drawn_upstream()
        dQ, dK, dV = inputs.gradients(upstream)
        rows["query.grad"] = values_of(dQ[:, at["queries"]])
        rows["key.grad"] = values_of(dK[:, at["keys"]])
        rows["value.grad"] = values_of(dV[:, at["keys"]])
        found["largest"]["upstream"] = _largest(upstream)
        found["sums"] = {"queries": products(dQ, inputs.tensors[0]), "keys": products(dK, inputs.tensors[1])}
        reaching = _upstream_of_keys(inputs, upstream, lse)
        if reaching is not None:
            found["sums"] |= {"values": sums(dV), "upstream": sums(reaching)}
    return found


def constant(call: Call) -> Numbers:
    """The call with one value for all positions. Options: dialect, share (of it that comes out), tolerance."""
    inputs, case = LongInputs(call), call.cases[0]
    count = torch.arange(case.kv_heads * case.value_dim, device=call.device)
    values = (1.0 + (count * 3 % 8) / 8).reshape(1, 1, case.kv_heads, case.value_dim)
    inputs.change("value", values.to(inputs.tensors[2].dtype))
    out, _ = inputs.called()
    wanted = call.options["share"] * values.repeat_interleave(case.heads // case.kv_heads, dim=2)
    return {"out": difference(out, wanted * _covered(inputs), inputs.own, call.options["tolerance"])}


def hidden_keys(call: Call) -> Numbers:
    """Two calls, other keys and values at some positions the second time. Options: changed, judged: [start, stop)."""
    inputs = LongInputs(call)
    results = []
    for change in (False, True):
        for name in ("key", "value") if change else ():
            tensor = inputs.tensors[INPUTS.index(name)].detach()
            inputs.change(name, torch.where(_within(inputs, "changed"), 3.0 - 2.0 * tensor, tensor))
        out, lse = inputs.called()
        of_rows = lse.detach().mT[..., None] if lse is not None else out.detach()
        results.append((out.detach(), of_rows))
    found = {}
    for name, one, other in zip(("out", "lse"), *results, strict=True):
        judged = _within(inputs, "judged")
        different = ((one != other) & judged).any(dim=3).any(dim=2).any(dim=0).cpu().numpy()
        found[name] = int(inputs.own[different].min()) if different.any() else None
    return found


def permuted(call: Call) -> Numbers:
    """The call, with batch rows reversed, and one call for each; with kv heads exchanged. Options: heads, tolerance."""
    inputs, tolerance = LongInputs(call), call.options["tolerance"]
    plain = inputs.called()[0].detach()
    before = [tensor.detach().clone() for tensor in inputs.tensors]
    _put(inputs, [tensor.flip(0) for tensor in before])
    found = {"batch": difference(inputs.called()[0].flip(0), plain, inputs.own, tolerance)}
    if call.options["heads"] is not None:
        group, order = inputs.case.heads // inputs.case.kv_heads, list(range(inputs.case.kv_heads))
        one, other = call.options["heads"]
        order[one], order[other] = other, one
        of_queries = [kv * group + k for kv in order for k in range(group)]
        _put(inputs, [before[0][:, :, of_queries], before[1][:, :, order], before[2][:, :, order]])
        found["heads"] = difference(inputs.called()[0][:, :, of_queries], plain, inputs.own, tolerance)
    parts = []
    for row in range(inputs.case.batch):
        one = [tensor[row : row + 1].clone() for tensor in before]
        inputs.tensors = [tensor.requires_grad_(bool(inputs.case.gradients)) for tensor in one]
        inputs.forward()
        parts.append(inputs.out.detach())
    found["split"] = difference(torch.cat(parts), plain, inputs.own, tolerance)
    return found


def linear(call: Call) -> Numbers:
    """Calls whose value, then whose upstream gradient, is that of even rows, of odd rows, of all. Option: tolerance."""
    inputs, tolerance = LongInputs(call), call.options["tolerance"]
    even = torch.from_numpy(inputs.own % 2 == 0).to(call.device)[None, :, None, None]
    value = inputs.tensors[2].detach().clone()
    outs, grads = [], []
    for marked in (even, ~even, torch.ones_like(even)):
        inputs.change("value", value * marked)
        outs.append(inputs.called()[0].detach())
    found = {"out": difference(outs[0].double() + outs[1].double(), outs[2], inputs.own, tolerance)}
    if call.cases[0].gradients:
        for marked in (even, ~even, torch.ones_like(even)):
            inputs.called()
            grads.append(inputs.gradients(inputs.drawn_upstream() * marked))
        for name, one, other, whole in zip(INPUTS, *grads, strict=True):
            both = one.double() + other.double()
            found[f"{name}.grad"] = difference(both, whole, inputs.own, tolerance)
    return found


LONG_CALLS: tuple[Callable[[Call], Numbers], ...] = (sample, constant, hidden_keys, permuted, linear)


def _owned(inputs: LongInputs, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the wanted positions this rank owns, as indices into them, and in which rows it has them."""
    order = np.argsort(inputs.own, kind="stable")
    places = np.searchsorted(inputs.own, wanted, sorter=order).clip(max=max(0, len(order) - 1))
    if not len(order):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    rows = order[places]
    which = np.flatnonzero(inputs.own[rows] == wanted)
    return which, rows[which]


def _largest(tensor: Tensor) -> tuple[float, float]:
    """The largest magnitude of an element, and the largest length of a row of one head."""
    largest, longest = 0.0, 0.0
    for piece in tensor.detach().split(PIECE, dim=1):
        if piece.numel():
            largest = max(largest, float(piece.abs().max()))
            longest = max(longest, float(piece.double().square().sum(dim=3).max()) ** 0.5)
    return largest, longest


def _within(inputs: LongInputs, option: str) -> Tensor:
    """Whether a row's position is in the range of that option, (1, rows, 1, 1)."""
    start, stop = inputs.call.options[option]
    inside = (inputs.own >= start) & (inputs.own < stop)
    return torch.from_numpy(inside).to(inputs.call.device)[None, :, None, None]


def _covered(inputs: LongInputs) -> Tensor:
    """Whether a row sees something, (1, rows, heads, 1)."""
    seen = sees_itself(inputs.case, inputs.call.options["dialect"], inputs.own)
    return torch.from_numpy(seen).to(inputs.call.device)[None, :, :, None]


def _upstream_of_keys(inputs: LongInputs, upstream: Tensor, lse: Tensor | None) -> Tensor | None:
    """What of the upstream gradient reaches the values: that of rows that see something, less what a sink takes."""
    share = branch_share(inputs.case, inputs.call.options["dialect"])
    reaching = upstream.double() * _covered(inputs) * share
    if "sink" not in inputs.of_all_ranks:
        return reaching
    if lse is None:
        return None  # the share is not known
    of_sink = torch.exp(inputs.of_all_ranks["sink"].detach().double()[None, None] - lse.detach().double().mT)
    return reaching * (1.0 - of_sink)[..., None]


def _put(inputs: LongInputs, tensors: list[Tensor]) -> None:
    for name, tensor in zip(INPUTS, tensors, strict=True):
        inputs.change(name, tensor)
