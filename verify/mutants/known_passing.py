"""Known mistakes 20 to 40: the ring's backward pass, autograd, collectives, races, hangs, memory and options."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant
from attention_gate.verify.mutants.same_program import IN_TILES

_TRAVEL = "travelling = pass_on(grad_kv, len(call.shard(source - 1)), call)"
_HOME = "        if travelling is not None:\n            grad_kv = travelling.wait()\n"
_FORWARD_LOOP = 'float("-inf"))\n        rows = call.shard(call.rank)\n        for hop in range(call.world_size):'
_FORWARD_ARRIVES = "kv = arriving.wait()\n        ctx.save"
_BACKWARD_ARRIVES = "kv = arriving.wait()\n        if travelling"
_REDUCE = "dist.all_reduce(grad, group=call.group)"
_BATCHED = "return Flight(dist.batch_isend_irecv(operations) if operations else [], incoming, outgoing)"

KNOWN_PASSING = (
    Mutant(
        name="M20",
        mistake="the gradients of keys and values stop one hop before they are home",
        base="ring",
        changes=(
            ("if call.world_size > 1:\n                # The", "if hop + 1 < call.world_size:\n                # The"),
            (_HOME, ""),
        ),
        world=2,
        caught_by=("gradients",),
    ),
    Mutant(
        name="M21",
        mistake="the gradients of keys and values travel against the ring",
        base="ring",
        changes=((_TRAVEL, "travelling = pass_on(grad_kv, len(call.shard(source + 1)), call, step=-1)"),),
        world=3,
        caught_by=("gradients",),
    ),
    Mutant(
        name="M22",
        mistake="the backward pass computes with its own keys and values at every hop",
        base="ring",
        changes=((_BACKWARD_ARRIVES, _BACKWARD_ARRIVES.replace("kv = ", "")),),
        world=2,
        caught_by=("gradients",),
    ),
    Mutant(
        name="M23",
        mistake="a rank that skips a masked block passes zeros on, and not the gradients that it received",
        base="ring",
        changes=(
            (
                "grad_kv += travelling.wait()",
                "arrived = travelling.wait()\n"
                "                grad_kv += arrived * (not (call.is_causal and source > call.rank))",
            ),
        ),
        world=2,
        caught_by=("gradients",),
    ),
    Mutant(
        name="M24",
        mistake="the gradient of the queries is that of the last block: = for +=",
        base="ring",
        changes=(("grad_q += block_q", "grad_q = block_q"),),
        caught_by=("gradients",),
    ),
    Mutant(
        name="M25",
        mistake="the ring makes one step too few",
        base="ring",
        changes=((_FORWARD_LOOP, _FORWARD_LOOP.replace("(call.world_size)", "(max(1, call.world_size - 1))")),),
        world=2,
        caught_by=("forward", "lse"),
    ),
    Mutant(
        name="M26",
        mistake="the backward pass normalises each block by the block's own lse",
        base="ring",
        changes=(
            (
                "weights = torch.exp(scale * (q @ k.mT) - lse[..., None]).masked_fill(~seen, 0.0)",
                'own = (scale * (q @ k.mT)).masked_fill(~seen, float("-inf"))\n'
                "    weights = torch.softmax(own, dim=-1).masked_fill(~seen, 0.0)",
            ),
        ),
        caught_by=("gradients",),
    ),
    Mutant(
        name="M27",
        mistake="the upstream gradient is read as if it were contiguous",
        base="ring",
        changes=(
            (
                "grad_out = heads_first(grad_out).to(q.dtype)",
                "dense = torch.empty(grad_out.shape).stride()\n"
                "        grad_out = heads_first(grad_out.as_strided(grad_out.shape, dense)).to(q.dtype)",
            ),
        ),
        source="the gradient of out.sum() has strides of 0, which kernels without a check read wrongly",
        caught_by=("strides",),
    ),
    Mutant(
        name="M28",
        mistake="the gradients of keys and values are averaged over the ranks, not summed",
        base="gather",
        changes=((_REDUCE, _REDUCE + "\n            grad /= call.world_size"),),
        world=2,
        caught_by=("gradients", "world-sizes"),
    ),
    Mutant(
        name="M29",
        mistake="key and value get gradients only if query requires one",
        base="ring",
        changes=(("if ctx.needs_input_grad[k] else None", "if ctx.needs_input_grad[0] else None"),),
        caught_by=("grad-subsets",),
    ),
    Mutant(
        name="M30",
        mistake="keys and values are gathered without a gradient",
        base="gather",
        changes=(
            (
                "Gather.apply(tensor, call).repeat_interleave",
                "Gather.apply(tensor.detach(), call).repeat_interleave",
            ),
        ),
        source="torch.distributed.all_gather has no gradient",
        caught_by=("gradients",),
    ),
    Mutant(
        name="M31",
        mistake="the gradient of a gather is this rank's slice, without the sum over the ranks",
        base="gather",
        changes=((_REDUCE, ""),),
        world=2,
        caught_by=("gradients", "world-sizes"),
    ),
    Mutant(
        name="M32",
        mistake="the gathered blocks lie in the order of their arrival, this rank's first",
        base="gather",
        changes=(
            ("return torch.cat(shards, dim=2)", "return torch.cat(shards[call.rank :] + shards[: call.rank], dim=2)"),
        ),
        world=2,
        caught_by=("forward",),
    ),
    Mutant(
        name="M33",
        mistake="the receive buffer is read before the message is there",
        base="ring",
        changes=(
            (_FORWARD_ARRIVES, "kv = arriving.incoming.clone()\n                arriving.wait()\n        ctx.save"),
        ),
        world=2,
        caught_by=("schedules", "forward"),
    ),
    Mutant(
        name="M34",
        mistake="the buffer that is being sent is filled anew before the message has left",
        base="ring",
        changes=(
            (
                "grad_kv = torch.zeros_like(kv, dtype=q.dtype)",
                "reused = hop > 0 and grad_kv.shape == kv.shape\n"
                "            grad_kv = grad_kv.zero_() if reused else torch.zeros_like(kv, dtype=q.dtype)",
            ),
        ),
        world=2,
        caught_by=("schedules", "gradients"),
    ),
    Mutant(
        name="M35",
        mistake="the gathered keys and values are saved for backward in a buffer that the next call fills again",
        base="ring",
        changes=(
            (
                "ctx.save_for_backward(q, own, out, lse)",
                "shared = _BUFFERS.setdefault((own.shape, own.dtype), torch.empty_like(own))\n"
                "        ctx.save_for_backward(q, shared.data.copy_(own), out, lse)",
            ),
            ("class _Ring(", "_BUFFERS: dict[tuple[torch.Size, torch.dtype], Tensor] = {}\n\n\nclass _Ring("),
        ),
        caught_by=("state",),
    ),
    Mutant(
        name="M36",
        mistake="a rank of the group is taken for a rank of the world",
        base="ring",
        changes=(
            ("outgoing, group=call.group, group_peer=following", "outgoing, following, group=call.group"),
            ("incoming, group=call.group, group_peer=previous", "incoming, previous, group=call.group"),
        ),
        source="torch.distributed addresses peers by their rank in the world unless group_peer is used",
        world=3,
        caught_by=("sub-groups",),
    ),
    Mutant(
        name="M37",
        mistake="every rank sends, blocking, before it receives",
        base="ring",
        changes=(
            (
                _BATCHED,
                "if outgoing.numel():\n"
                "        dist.send(outgoing, group=call.group, group_dst=following)\n"
                "    if incoming.numel():\n"
                "        dist.recv(incoming, group=call.group, group_src=previous)\n"
                "    return Flight([], incoming, outgoing)",
            ),
        ),
        world=2,
        caught_by=("forward", "schedules"),
    ),
    Mutant(
        name="M38",
        mistake="the call waits at a barrier of the whole world",
        base="ring",
        changes=(
            (
                "statements = [(problem, asked)]",
                "statements = [(problem, asked)]\n    if together:\n        dist.barrier()",
            ),
        ),
        world=2,
        caught_by=("sub-groups",),
    ),
    Mutant(
        name="M39",
        mistake="every block that arrives is kept until the end",
        base="ring",
        changes=(
            *IN_TILES,
            (
                _FORWARD_ARRIVES,
                "kv = arriving.wait()\n"
                "                ctx.blocks = (*getattr(ctx, 'blocks', ()), kv)\n"
                "        ctx.save",
            ),
        ),
        world=4,
        caught_by=("memory",),
        capabilities={"claims": ("memory",)},
    ),
    Mutant(
        name="M40",
        mistake="options that the contract does not have are accepted and ignored",
        base="ring",
        changes=(("if unknown:\n", "if unknown and not unknown:\n"),),
        source="ring-flash-attention #45 and others ask what becomes of dropout and the like on ring paths",
        caught_by=("refusals",),
    ),
)
