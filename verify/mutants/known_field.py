"""Known mistakes from 41 on: bases of logarithms, groups of ranks, shapes past a tile, calls made again."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant

_SPLIT = "    k, v = split(kv, q)\n    if not"
_TOTAL = "total = weights.sum(dim=-1, keepdim=True)\n    block_out"
_GRAD_KV = "    grad_kv = torch.cat((grad_k, grad_v), dim=-1)\n"
_APPLY = "out, lse = _Ring.apply(query, key, value, call)"

KNOWN_FIELD = (
    Mutant(
        name="M41",
        mistake="the backward pass takes the lse for a base-2 logarithm",
        base="ring",
        changes=(("(q @ k.mT) - lse[..., None])", "(q @ k.mT) - lse[..., None] * 0.6931471805599453)"),),
        source="attention-gym #200",
        caught_by=("gradients",),
    ),
    Mutant(
        name="M42",
        mistake="the running denominator starts at 1",
        base="ring",
        changes=((_TOTAL, _TOTAL.replace("keepdim=True)", "keepdim=True) + 1.0")),),
        source="FlagTree #1250",
        caught_by=("forward", "lse"),
    ),
    Mutant(
        name="M43",
        mistake="a row without keys in a block has an lse of +inf there",
        base="ring",
        changes=(
            (
                "return block_out, (top + torch.log(total))[..., 0]",
                "return block_out, (top + torch.log(total)).masked_fill(total == 0.0, float('inf'))[..., 0]",
            ),
        ),
        source="vLLM #15492",
        caught_by=("forward", "lse"),
    ),
    Mutant(
        name="M44",
        mistake="only the ranks whose rows are padded take part in another collective",
        base="gather",
        changes=(
            (
                "        received = [torch",
                "        if own.shape[2] < longest:\n"
                "            dist.barrier(group=call.group)\n"
                "        received = [torch",
            ),
        ),
        source="SGLang #24694",
        world=2,
        caught_by=("forward",),
    ),
    Mutant(
        name="M45",
        mistake="the ranks of a group are taken for consecutive ones",
        base="ring",
        changes=(
            (
                "    operations = []\n",
                "    alone = call.world_size == 1\n"
                "    first = 0 if alone else dist.get_process_group_ranks(call.group or dist.group.WORLD)[0]\n"
                "    operations = []\n",
            ),
            ("outgoing, group=call.group, group_peer=following", "outgoing, first + following, group=call.group"),
            ("incoming, group=call.group, group_peer=previous", "incoming, first + previous, group=call.group"),
        ),
        source="SGLang #16532",
        world=3,
        caught_by=("sub-groups",),
    ),
    Mutant(
        name="M46",
        mistake="more than 16 heads on one kv head are folded into rows, whose mask is that of other rows",
        base="ring",
        changes=(
            (
                _SPLIT,
                "    if q.shape[1] // kv.shape[1] > 16:\n        seen = seen.roll(1, dims=-2)\n" + _SPLIT,
            ),
        ),
        source="aiter #4964",
        caught_by=("shapes",),
    ),
    Mutant(
        name="M47",
        mistake="a rank whose own rows are small enough does not send them",
        base="ring",
        changes=(("    if outgoing.numel():", "    if outgoing.numel() and bool(outgoing.abs().amax() > 0.5):"),),
        source="xDiT #502: whether a rank communicates depends on its own data",
        world=2,
        caught_by=("schedules",),
    ),
    Mutant(
        name="M48",
        mistake="the upstream gradient is ignored, ones are taken for it",
        base="ring",
        changes=(
            (
                "grad_out = heads_first(grad_out).to(q.dtype)",
                "grad_out = heads_first(torch.ones_like(grad_out)).to(q.dtype)",
            ),
        ),
        source="mindone #1438",
        caught_by=("gradients",),
    ),
    Mutant(
        name="M49",
        mistake="values of grouped heads are laid out anew by the wrong shape where value_dim is not head_dim",
        base="ring",
        changes=(
            (
                "    return each[..., : q.shape[-1]], each[..., q.shape[-1] :]",
                "    k, v = each[..., : q.shape[-1]], each[..., q.shape[-1] :]\n"
                "    if k.shape[-1] != v.shape[-1] and q.shape[1] > kv.shape[1]:\n"
                "        v = v.reshape(v.shape[0], v.shape[2], v.shape[1], v.shape[3]).transpose(1, 2)\n"
                "    return k, v",
            ),
        ),
        source="TransformerEngine #2868",
        caught_by=("forward",),
    ),
    Mutant(
        name="M50",
        mistake="of a head_dim above 16 the gradient of the queries is 0 in the columns after the last whole tile",
        base="ring",
        changes=(
            (
                "    grad_q = scale * (grad_scores @ k)\n",
                "    grad_q = scale * (grad_scores @ k)\n"
                "    if q.shape[-1] > 16:\n        grad_q[..., q.shape[-1] // 16 * 16 :] = 0.0\n",
            ),
        ),
        source="flash-attention #2896",
        caught_by=("shapes",),
    ),
    Mutant(
        name="M51",
        mistake="the tail of a head's last tile of dV lands on the next head",
        base="ring",
        changes=(
            (
                _GRAD_KV,
                "    if (tail := v.shape[-1] % 16) and v.shape[-1] > 16:\n"
                "        grad_v = torch.cat((grad_v[..., :-tail], grad_v[..., -tail:].roll(1, dims=1)), dim=-1)\n"
                + _GRAD_KV,
            ),
        ),
        source="FlagGems #898",
        caught_by=("shapes",),
    ),
    Mutant(
        name="M52",
        mistake="the first call of a shape saves another tensor than its recomputation does",
        base="ring",
        changes=(
            (
                _APPLY,
                "if query.shape not in _SEEN:\n"
                "        _SEEN.add(query.shape)\n"
                "        query = query * torch.ones_like(query)\n"
                f"    {_APPLY}",
            ),
            ("class _Ring(", "_SEEN: set[torch.Size] = set()\n\n\nclass _Ring("),
        ),
        source="trl #4314",
        caught_by=("callers",),
    ),
    Mutant(
        name="M53",
        mistake="a rank's place in its group is kept from the first group of as many ranks",
        base="ring",
        changes=(
            (
                "    problem = _problem(\n",
                "    rank = _PLACES.setdefault(world_size, rank)\n    problem = _problem(\n",
            ),
            ("def admit(", "_PLACES: dict[int, int] = {}\n\n\ndef admit("),
        ),
        source="Megatron-LM #6821: the group changes from call to call, positions stay those of the first",
        world=3,
        caught_by=("sub-groups",),
    ),
)
