"""Dilated attention by gathering: each rank collects the keys and values that its queries see, then computes at once.

The gather is one all-to-all whose split sizes come from the plan, and so is its transpose, the reduce-scatter of the
gradients. An all-gather would need a process group for each set of ranks that share a segment, and padding where
shards are uneven; and under causality it would carry twice the rows that are seen. Each rank holds the gathered rows of
its segments, g S bytes for g ranks of S bytes each, while a pass runs; between the passes only its own.
"""

import torch
from torch import Tensor

from attention_gate.impls.agreement import Call
from attention_gate.impls.autograd import Inputs, Scheme, Upstream
from attention_gate.impls.block import attend_block, attend_block_backward
from attention_gate.impls.exchange import all_to_all
from attention_gate.impls.merge import merge_rows
from attention_gate.impls.rows import pack, unpack
from attention_gate.impls.schedule import Gathering, gathering
from attention_gate.impls.signature import attend_function


def _forward(inputs: Inputs, call: Call, out: Tensor, lse: Tensor) -> None:
    plan = gathering(call.layout, inputs.query.device, call.scores.needs_places)
    keys, values = unpack(_gather(inputs, plan, call), inputs.key.shape[-1])
    for work in plan.works:
        block_out, block_lse = attend_block(inputs.query, keys, values, work, call.scores)
        merge_rows(out, lse, work.rows, block_out, block_lse)


def _backward(inputs: Inputs, upstream: Upstream, call: Call, grads: Inputs, moves_home: bool) -> None:
    plan = gathering(call.layout, inputs.query.device, call.scores.needs_places)
    gathered = _gather(inputs, plan, call)
    keys, values = unpack(gathered, inputs.key.shape[-1])
    gathered_grads = torch.zeros_like(gathered, dtype=grads.key.dtype)
    grad_keys, grad_values = unpack(gathered_grads, inputs.key.shape[-1])
    for work in plan.works:
        block_grads = (grads.query, grad_keys, grad_values)
        attend_block_backward(inputs.query, keys, values, *upstream, block_grads, work, call.scores)
    if moves_home:
        _reduce_scatter(gathered_grads, grads, plan, call)


def _gather(inputs: Inputs, plan: Gathering, call: Call) -> Tensor:
    """Return the rows that this rank's queries see: its own, then those of the others in the order of their ranks."""
    own = pack(inputs.key, inputs.value, plan.own)
    if not plan.travels:
        return own
    outgoing = pack(inputs.key, inputs.value, plan.sent)
    return torch.cat((own, all_to_all(outgoing, plan.send_rows, plan.receive_rows, call.group)))


def _reduce_scatter(gathered_grads: Tensor, grads: Inputs, plan: Gathering, call: Call) -> None:
    """Bring the gradients of all gathered rows home and add them up there."""
    parcels = [(plan.own, gathered_grads[: len(plan.own)])]
    if plan.travels:
        outgoing = gathered_grads[len(plan.own) :]
        parcels.append((plan.sent, all_to_all(outgoing, plan.receive_rows, plan.send_rows, call.group)))
    for index, parcel in parcels:
        grad_keys, grad_values = unpack(parcel, grads.key.shape[-1])
        grads.key.index_add_(1, index, grad_keys)
        grads.value.index_add_(1, index, grad_values)


attend = attend_function(
    __name__,
    Scheme(_forward, _backward, in_parts=False),
    "Return this rank's rows of the dilated attention of a sharded sequence; keys and values are gathered.",
    "Section 3.2 for the gather.",
)
