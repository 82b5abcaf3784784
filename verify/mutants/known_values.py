"""Known mistakes 1 to 19: merging and numbers, masks and positions, dilation and mixing."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant

_MERGE = "out, lse = merge(out, lse, block_out, block_lse)"
_WEIGHTED = "merged = out * (running / safe)[..., None] + block_out * (block / safe)[..., None]"
_CAUSAL = "keys <= rows[:, None]"
_FORWARD_KEYS = "keys = call.shard(source)\n            # Under"
_FORWARD_SKIP = (
    "source > call.rank):\n                for branch in call.branches:\n"
    "                    seen = visible(call, branch, q.shape[1], rows, keys)\n                    block_out"
)

KNOWN_VALUES = (
    Mutant(
        name="M01",
        mistake="the lse of remote blocks is taken for a base-2 logarithm",
        base="ring",
        changes=((_MERGE, "out, lse = merge(out, lse, block_out, block_lse * (1.4426950408889634 if hop else 1.0))"),),
        source="kernels differ in the base of their lse: FlashInfer's is 2, FlashAttention's is e",
        world=2,
        caught_by=("forward",),
    ),
    Mutant(
        name="M02",
        mistake="the new lse is lse + log(1 + exp(block_lse - lse)), which overflows and is NaN for empty rows",
        base="ring",
        changes=(
            (
                "return merged, top + torch.log(total)",
                "return merged, lse + torch.log(1.0 + torch.exp(block_lse - lse))",
            ),
        ),
        source="ring-flash-attention's first merging formula, since replaced by sigmoid and logsigmoid",
        caught_by=("forward", "lse"),
    ),
    Mutant(
        name="M03",
        mistake="the two weights of a merge are exchanged",
        base="ring",
        changes=((_WEIGHTED, "merged = out * (block / safe)[..., None] + block_out * (running / safe)[..., None]"),),
        world=2,
        caught_by=("forward",),
    ),
    Mutant(
        name="M04",
        mistake="the merged output comes with the lse from before the merge",
        base="ring",
        changes=(
            (
                "return merged, top + torch.log(total)",
                "return merged, torch.where(lse.isneginf(), block_lse, lse)",
            ),
        ),
        world=2,
        caught_by=("forward", "lse", "gradients"),
    ),
    Mutant(
        name="M05",
        mistake="merging two empty rows gives NaN: there is no guard against -inf minus -inf",
        base="ring",
        changes=(('    top = top.masked_fill(top == float("-inf"), 0.0)  # nothing seen on either side\n', ""),),
        caught_by=("forward", "lse"),
    ),
    Mutant(
        name="M06",
        mistake="the running output is kept in the input's dtype",
        base="ring",
        changes=((_MERGE, _MERGE + "\n                    out = out.to(query.dtype).to(q.dtype)"),),
        source="ring-flash-attention #22, #42 and #67 discuss the error of partial results in half types",
        caught_by=("precision",),
    ),
    Mutant(
        name="M07",
        mistake="the default scale comes from value_dim",
        base="ring",
        changes=(
            (
                "scale = query.shape[-1] ** -0.5 if scale is None else scale",
                "scale = value.shape[-1] ** -0.5 if scale is None else scale",
            ),
        ),
        caught_by=("forward", "lse", "gradients"),
    ),
    Mutant(
        name="M08",
        mistake="the causal mask compares positions within the shards",
        base="ring",
        changes=((_CAUSAL, "torch.arange(len(keys)) <= torch.arange(len(rows))[:, None]"),),
        world=2,
        caught_by=("forward", "lse", "gradients"),
    ),
    Mutant(
        name="M09",
        mistake="the mask takes the block for that of rank + hop, not of rank - hop",
        base="ring",
        changes=((_FORWARD_KEYS, "keys = call.shard(call.rank + hop)\n            # Under"),),
        world=2,
        caught_by=("forward", "lse"),
    ),
    Mutant(
        name="M10",
        mistake="a block's first position is its rank times length // world_size, also where shards are uneven",
        base="ring",
        changes=(
            (
                _FORWARD_KEYS,
                "keys = source * (call.length // call.world_size) + torch.arange(kv.shape[2])\n            # Under",
            ),
        ),
        source="uneven lengths are asked for and go wrong in several libraries, e.g. DeepSpeed #5177",
        world=2,
        caught_by=("forward", "lse"),
    ),
    Mutant(
        name="M11",
        mistake="the causal skip leaves out one block too many: hop >= rank",
        base="ring",
        changes=((_FORWARD_SKIP, _FORWARD_SKIP.replace("source > call.rank", "hop >= call.rank")),),
        caught_by=("forward", "lse"),
    ),
    Mutant(
        name="M12",
        mistake="the causal mask leaves out the diagonal: j < i",
        base="ring",
        changes=((_CAUSAL, "keys < rows[:, None]"),),
        caught_by=("forward", "lse", "gradients"),
    ),
    Mutant(
        name="M13",
        mistake="a masked score is 0 instead of minus infinity",
        base="ring",
        changes=(
            ('(scale * (q @ k.mT)).masked_fill(~seen, float("-inf"))', "(scale * (q @ k.mT)).masked_fill(~seen, 0.0)"),
        ),
        caught_by=("forward", "lse"),
    ),
    Mutant(
        name="M14",
        mistake="head groups of unequal size are cut as if all were equal: heads i g to (i + 1) g",
        base="grouped",
        changes=(("first = index * size + min(index, larger)", "first = index * (size + (index < larger))"),),
        source="dilated-attention-pytorch cuts the groups so",
        caught_by=("forward",),
        capabilities={"dialect": "grouped-mean"},
    ),
    Mutant(
        name="M15",
        mistake="which rows a head selects is decided by the index within the shard",
        base="ring",
        changes=(
            (
                "row_selected = rows % segment % rate == offset",
                "row_selected = torch.arange(len(rows)) % segment % rate == offset",
            ),
            (
                "key_selected = keys % segment % rate == offset",
                "key_selected = torch.arange(len(keys)) % segment % rate == offset",
            ),
        ),
        world=2,
        caught_by=("forward", "world-sizes"),
    ),
    Mutant(
        name="M16",
        mistake="the segment of a position comes from its index within the shard",
        base="ring",
        changes=(
            (
                "(rows // segment)[:, None] == keys // segment",
                "(torch.arange(len(rows)) // segment)[:, None] == torch.arange(len(keys)) // segment",
            ),
        ),
        world=2,
        caught_by=("forward", "world-sizes"),
    ),
    Mutant(
        name="M17",
        mistake="the branches are averaged with equal weights",
        base="gather",
        changes=(("branch_out * (part / safe)[..., None] for", "branch_out / len(parts) for"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="M18",
        mistake="no gradient goes through the branches' weights",
        base="gather",
        changes=(("(part / safe)[..., None] for", "(part / safe).detach()[..., None] for"),),
        source="torchscale's LongNet does so by intent; in this dialect it is a mistake",
        caught_by=("gradients",),
    ),
    Mutant(
        name="M19",
        mistake="all heads select with offset 0",
        base="ring",
        changes=(("(torch.arange(heads) % rate)[:, None]", "torch.zeros(heads, 1, dtype=torch.int64)"),),
        caught_by=("forward",),
    ),
)
