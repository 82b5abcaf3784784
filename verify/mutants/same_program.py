"""Changes that change nothing that may be observed: a check that catches one of them is wrong."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant

_MERGE = "out, lse = merge(out, lse, block_out, block_lse)"
_BRANCH = "                for branch in call.branches:\n                    "
_SEEN = "seen = visible(call, branch, q.shape[1], rows, keys)\n                    "
_TILE = "seen = visible(call, branch, q.shape[1], rows[some], keys)\n                        "
_TILES = "for some in [slice(at, at + 128) for at in range(0, len(rows), 128)]:\n                        "

#: The ring with a bound on the scores that exist at a time, as a claim on memory asks for.
IN_TILES = (
    (
        f"{_BRANCH}{_SEEN}block_out, block_lse = attend_block(q, kv, seen, call.scale)\n                    {_MERGE}",
        f"{_BRANCH}{_TILES}{_TILE}some_out, some_lse = attend_block(q[:, :, some], kv, seen, call.scale)\n"
        "                        merged = merge(out[:, :, some], lse[:, :, some], some_out, some_lse)\n"
        "                        out[:, :, some], lse[:, :, some] = merged",
    ),
    (
        f"{_BRANCH}{_SEEN}block_q, block_kv = block_gradients(q, kv, grad_out, lse, delta, seen, call.scale)\n"
        "                    grad_q += block_q\n                    grad_kv += block_kv\n",
        f"{_BRANCH}{_TILES}{_TILE}of_rows = (x[:, :, some] for x in (grad_out, lse, delta))\n"
        "                        some_q, some_kv = block_gradients(q[:, :, some], kv, *of_rows, seen, call.scale)\n"
        "                        grad_q[:, :, some] += some_q\n"
        "                        grad_kv += some_kv\n",
    ),
)

SAME = (
    Mutant(
        name="E01",
        mistake="the ring turns the other way, its labels with it",
        base="ring",
        changes=(
            (" step: int = 1)", " step: int = -1)"),
            *(
                (
                    f"{before}\n        for hop in range(call.world_size):\n"
                    "            source = (call.rank - hop) % call.world_size\n"
                    "            if hop + 1 < call.world_size:\n"
                    "                arriving = pass_on(kv, len(call.shard(source - 1)), call)\n",
                    f"{before}\n        for hop in range(call.world_size):\n"
                    "            source = (call.rank + hop) % call.world_size\n"
                    "            if hop + 1 < call.world_size:\n"
                    "                arriving = pass_on(kv, len(call.shard(source + 1)), call)\n",
                )
                for before in (
                    'float("-inf"))\n        rows = call.shard(call.rank)',
                    "rows = call.shard(call.rank)\n        travelling = None",
                )
            ),
            (
                "travelling = pass_on(grad_kv, len(call.shard(source - 1)), call)",
                "travelling = pass_on(grad_kv, len(call.shard(source + 1)), call)",
            ),
        ),
        keeps=True,
    ),
    Mutant(
        name="E02",
        mistake="blocks of which nothing is seen are skipped",
        base="ring",
        changes=(
            (
                "                    block_out, block_lse = attend",
                "                    if not seen.any():\n"
                "                        continue\n"
                "                    block_out, block_lse = attend",
            ),
        ),
        keeps=True,
    ),
    Mutant(
        name="E03",
        mistake="branches and sides of a merge are taken in the other order",
        base="ring",
        changes=(
            (_MERGE, "out, lse = merge(block_out, block_lse, out, lse)"),
            (
                "branches = tuple(zip(segment_lengths, dilation_rates, strict=True))",
                "branches = tuple(zip(segment_lengths, dilation_rates, strict=True))[::-1]",
            ),
        ),
        keeps=True,
    ),
    Mutant(
        name="E04",
        mistake="the group meets at a barrier once more",
        base="ring",
        changes=(
            (
                "out, lse = _Ring.apply(query, key, value, call)",
                "out, lse = _Ring.apply(query, key, value, call)\n"
                "    if call.world_size > 1:\n        dist.barrier(group=call.group)",
            ),
        ),
        keeps=True,
    ),
    Mutant(
        name="E05",
        mistake="1e-8 is added to a denominator where float32 is the widest dtype",
        base="ring",
        changes=(
            ("total.masked_fill(total == 0.0, 1.0)\n    return block_out", "(total + 1e-8)\n    return block_out"),
        ),
        capabilities={"dtypes": ("float32", "bfloat16", "float16")},
        keeps=True,
    ),
    Mutant(
        name="E06",
        mistake="queries are taken in tiles of 128, and bounded memory is claimed",
        base="ring",
        changes=IN_TILES,
        capabilities={"claims": ("memory",)},
        keeps=True,
    ),
    Mutant(
        name="E07",
        mistake="the lse can be differentiated, which no call does",
        base="gather",
        changes=(("return (out, lse.detach()) if return_lse else out", "return (out, lse) if return_lse else out"),),
        keeps=True,
    ),
)
