"""Dilated attention as a ring: selected keys and values pass from rank to rank while each rank computes.

At hop t every rank sends its rows straight to the rank t steps ahead, and their gradients return the same way in one
step. Passing blocks on from neighbour to neighbour would take them through ranks that do not need them, wherever
segments and shards are not aligned; sent straight, a row travels once to each rank that sees it and to no other.

Queries, outputs and their gradients never leave their rank. Per branch a rank receives (g - 1) S bytes, for g ranks in
its segment and S bytes of selected keys and values on each; under causality rank t of the segment receives t S. At any
time it holds two received blocks, the one that it computes on and the one that arrives, and the one that it sends; the
backward pass holds as many blocks of gradients besides.
"""

from torch import Tensor

from attention_gate.impls.agreement import Call
from attention_gate.impls.autograd import Inputs, Scheme, Upstream
from attention_gate.impls.block import attend_block, attend_block_backward
from attention_gate.impls.exchange import Flight, start_hop
from attention_gate.impls.merge import merge_rows
from attention_gate.impls.rows import new_parcel, pack, unpack
from attention_gate.impls.schedule import Hop, ring
from attention_gate.impls.signature import attend_function


def _forward(inputs: Inputs, call: Call, out: Tensor, lse: Tensor) -> None:
    keys, values = inputs.key, inputs.value
    for hop, following in ring(call.layout, inputs.query.device, call.scores.needs_places).hops():
        arriving = _post(following, inputs, call) if following else None
        for work in hop.works:
            block_out, block_lse = attend_block(inputs.query, keys, values, work, call.scores)
            merge_rows(out, lse, work.rows, block_out, block_lse)
        if arriving:
            keys, values = unpack(arriving.wait(), inputs.key.shape[-1])


def _backward(inputs: Inputs, upstream: Upstream, call: Call, grads: Inputs, moves_home: bool) -> None:
    keys, values = inputs.key, inputs.value
    grad_keys, grad_values = grads.key, grads.value
    returning: tuple[Hop, Flight] | None = None
    for hop, following in ring(call.layout, inputs.query.device, call.scores.needs_places).hops():
        arriving = _post(following, inputs, call) if following else None
        if hop.steps:
            parcel = new_parcel(hop.received, inputs.key, inputs.value, grads.key.dtype).zero_()
            grad_keys, grad_values = unpack(parcel, inputs.key.shape[-1])
        for work in hop.works:
            block_grads = (grads.query, grad_keys, grad_values)
            attend_block_backward(inputs.query, keys, values, *upstream, block_grads, work, call.scores)
        if returning:
            _welcome(*returning, grads)
        if hop.steps and moves_home:
            returning = hop, _post_home(hop, parcel, grads, call)
        if arriving:
            keys, values = unpack(arriving.wait(), inputs.key.shape[-1])
    if returning:
        _welcome(*returning, grads)


def _post(hop: Hop, inputs: Inputs, call: Call) -> Flight:
    """Send the rows that the hop's destination needs, and receive those that its source has for this rank."""
    outgoing = pack(inputs.key, inputs.value, hop.sent)
    incoming = new_parcel(hop.received, inputs.key, inputs.value, inputs.key.dtype)
    return start_hop(outgoing, hop.destination, incoming, hop.source, call.group)


def _post_home(hop: Hop, parcel: Tensor, grads: Inputs, call: Call) -> Flight:
    """Send the gradients of a block back to where it came from, and receive those of the rows that left on this hop."""
    incoming = new_parcel(len(hop.sent), grads.key, grads.value, parcel.dtype)
    return start_hop(parcel, hop.source, incoming, hop.destination, call.group)


def _welcome(hop: Hop, returning: Flight, grads: Inputs) -> None:
    """Add the gradients that came home to those of this rank's own rows."""
    grad_keys, grad_values = unpack(returning.wait(), grads.key.shape[-1])
    grads.key.index_add_(1, hop.sent, grad_keys)
    grads.value.index_add_(1, hop.sent, grad_values)


attend = attend_function(
    __name__,
    Scheme(_forward, _backward, in_parts=True),
    "Return this rank's rows of the dilated attention of a sharded sequence; keys and values pass around a ring.",
    "Ring attention (arXiv 2310.01889).",
)
