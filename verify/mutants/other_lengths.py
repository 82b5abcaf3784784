"""Relatives of the known mistakes with lengths: gradients of joint rows, merges of parts, rows that are counted."""

from __future__ import annotations

from attention_gate.verify.mutants.known_lengths import DECODING, JOINED, LENGTHS
from attention_gate.verify.mutants.mutant import Mutant

OTHER_LENGTHS = (
    Mutant(
        name="X141",
        mistake="the gradients of rows that every rank has are summed over the ranks twice",
        base="bottom_right",
        changes=(
            (
                "        found.append((joint_key,",
                "        joint_key, joint_value = (Sum.apply(one, sizes) for one in (joint_key, joint_value))\n"
                "        found.append((joint_key,",
            ),
            (
                "class Gather(",
                "class Sum(torch.autograd.Function):\n"
                '    """Every rank gets the total."""\n\n'
                "    @staticmethod\n"
                "    def forward(ctx: Any, own: Tensor, sizes: Sizes) -> Tensor:\n"
                "        ctx.sizes = sizes\n"
                "        return own.clone()\n\n"
                "    @staticmethod\n"
                "    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:\n"
                "        total = grad.clone()\n"
                "        if ctx.sizes.world_size > 1:\n"
                "            dist.all_reduce(total, group=ctx.sizes.group)\n"
                "        return total, None\n\n\n"
                "class Gather(",
            ),
        ),
        world=2,
        caught_by=("gradients",),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="X142",
        mistake="only the first rank returns a gradient of the rows that every rank has, its own part",
        base="bottom_right",
        changes=(
            (
                JOINED,
                JOINED + "        if sizes.rank:\n"
                "            found[-1] = (*(one.detach() + 0 * one for one in (joint_key, joint_value)), place)\n",
            ),
        ),
        world=2,
        caught_by=("gradients",),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="X143",
        mistake="rows for the end are put before all others",
        base="bottom_right",
        changes=(('joint == "front", documents)', "True, documents)"),),
        caught_by=("forward", "gradients"),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="X144",
        mistake="the positions of keys do not count the rows before them that every rank has",
        base="bottom_right",
        changes=(("    first = sizes.joint if sizes.is_front else 0\n", "    first = 0\n"),),
        caught_by=("forward", "gradients"),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="X145",
        mistake="the rank's queries are cut by the length of the keys",
        base="bottom_right",
        changes=(
            (
                "own = sizes.part(sizes.queries, sizes.rank)\n",
                "mine = sizes.part(sizes.queries, sizes.rank)\n"
                "    first = sizes.part(sizes.keys, sizes.rank)[:1].sum()\n"
                "    own = (first + torch.arange(len(mine))).clamp(max=sizes.queries - 1)\n",
            ),
        ),
        world=2,
        caught_by=("forward", "gradients"),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="X146",
        mistake="positions of queries are counted in the sequence, not in their document",
        base="bottom_right",
        changes=(
            (
                "first_key + k - q + torch.arange(q)",
                "sizes.keys + sizes.joint - sizes.queries + first_query + torch.arange(q)",
            ),
        ),
        caught_by=("forward", "gradients"),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="X147",
        mistake="a rank without queries does not take part in the sum of the keys' gradients",
        base="bottom_right",
        changes=(
            (
                "        if sizes.world_size > 1:\n            dist.all_reduce(wide",
                "        takes_part = len(sizes.part(sizes.queries, sizes.rank)) > 0\n"
                "        if sizes.world_size > 1 and takes_part:\n            dist.all_reduce(wide",
            ),
        ),
        world=2,
        caught_by=("gradients",),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="X148",
        mistake="parts are averaged with equal weights",
        base="decoding",
        changes=(("weights = torch.exp(lses - top)", "weights = torch.exp(lses - top).clamp(min=1.0)"),),
        world=2,
        caught_by=("forward", "lse"),
        capabilities=DECODING,
    ),
    Mutant(
        name="X149",
        mistake="a rank without keys has an lse of 0",
        base="decoding",
        changes=(
            (
                "return out, (top + torch.log(total))[..., 0]",
                "return out, (top + torch.log(total)).masked_fill(total == 0.0, 0.0)[..., 0]",
            ),
        ),
        caught_by=("forward", "lse"),
        capabilities=DECODING,
    ),
    Mutant(
        name="X150",
        mistake="the result is that of the first rank's merge of two parts alone",
        base="decoding",
        changes=(("    out, lse = merged(outs, lses)\n", "    out, lse = merged(outs[:2], lses[:2])\n"),),
        world=3,
        caught_by=("forward", "lse"),
        capabilities=DECODING,
    ),
    Mutant(
        name="X151",
        mistake="the rows that every rank has are left out of the denominators' logarithm",
        base="bottom_right",
        changes=(
            (
                "    out = out.transpose(1, 2).to(query.dtype)\n",
                "    if rows and keys:\n"
                "        own = seen.clone()\n        own[:, -rows:] = False\n"
                "        _, lse = softmax_of(q, k, v, own, query.shape[-1] ** -0.5 if scale is None else scale)\n"
                "    out = out.transpose(1, 2).to(query.dtype)\n",
            ),
        ),
        caught_by=("lse",),
        capabilities=LENGTHS,
    ),
)
