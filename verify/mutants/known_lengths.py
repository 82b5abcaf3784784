"""Known mistakes with queries fewer or more than keys, with sharded keys in decoding, with rows that every rank has."""

from __future__ import annotations

from typing import Any

from attention_gate.verify.mutants.mutant import Mutant

#: What a program declares that decodes over shards of keys.
DECODING: dict[str, Any] = {
    "layout": "interleaved",
    "queries": "replicated",
    "branches": "dense",
    "terms": ("queries",),
    "gradients": False,
    "refusals": False,
}

#: What the program declares that takes queries of another number, and rows that every rank has.
LENGTHS: dict[str, Any] = {"branches": "dense", "terms": ("documents", "queries", "joint"), "refusals": False}

#: Where the rows that every rank has are put behind those of the ranks.
JOINED = (
    "    if joint_key is not None and joint_value is not None:\n"
    "        place = torch.arange(sizes.joint) + (0 if sizes.is_front else sizes.keys)\n"
    "        found.append((joint_key, joint_value, place))\n"
)
_OWN_BLOCK = "        found.append((all_keys[:, rows], all_values[:, rows], first + rows))\n"

_SHORT = "seen = (slots < key.shape[1]).expand"
_DEALT = "positions = (slots // interleave * world_size + rank) * interleave + slots % interleave"
_LAST = "places = length - query.shape[1] + torch.arange(query.shape[1])"
_AT_THE_END = "first_key + k - q + torch.arange(q)"

KNOWN_LENGTHS = (
    Mutant(
        name="T40",
        mistake="the length of the whole sequence is taken for that of the rank's own keys",
        base="decoding",
        changes=((_SHORT, "seen = (slots < length).expand"),),
        source="vLLM #48003, #41623",
        world=2,
        caught_by=("forward", "lse"),
        capabilities=DECODING,
    ),
    Mutant(
        name="T41",
        mistake="keys are taken for interleaved row by row, whatever the blocks are",
        base="decoding",
        changes=((_DEALT, "positions = slots * world_size + rank"),),
        source="vLLM #30309",
        world=2,
        caught_by=("forward",),
        capabilities=DECODING,
    ),
    Mutant(
        name="T42",
        mistake="two or three queries, as drafts have, are taken for one: each sees all keys",
        base="decoding",
        changes=(
            (_LAST, f"{_LAST}\n    if query.shape[1] < 4:\n        places = torch.full_like(places, length - 1)"),
        ),
        source="SGLang #33926",
        caught_by=("forward",),
        capabilities=DECODING,
    ),
    Mutant(
        name="T43",
        mistake="the prefix is counted one too long: positions and the causal bound are shifted by one",
        base="decoding",
        changes=((_LAST, "places = length - query.shape[1] + 1 + torch.arange(query.shape[1])"),),
        source="SGLang #37505",
        caught_by=("forward",),
        capabilities=DECODING,
    ),
    Mutant(
        name="T44",
        mistake="the causal mask is aligned at the first query and the first key",
        base="bottom_right",
        changes=((_AT_THE_END, "first_key + torch.arange(q)"),),
        source="CUTLASS #2336, OpenVINO #36680",
        caught_by=("forward", "gradients"),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="T45",
        mistake="the first document's number of keys is taken for that of all",
        base="bottom_right",
        changes=((_AT_THE_END, "first_key + sizes.documents[0][1] - q + torch.arange(q)"),),
        source="nanochat #485",
        caught_by=("forward", "gradients"),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="T46",
        mistake="keys are padded with zeros that are not masked: each adds exp(0) to the denominator",
        base="decoding",
        changes=((_SHORT, "seen = (slots >= 0).expand"), ("*rows.shape[2:]), 3.0)", "*rows.shape[2:]), 0.0)")),
        source="TensorRT-LLM #18111",
        caught_by=("forward", "lse"),
        capabilities=DECODING,
    ),
    Mutant(
        name="T47",
        mistake="parts are merged by natural exponentials of an lse in base 2",
        base="decoding",
        changes=(
            (
                "return out, (top + torch.log(total))[..., 0]",
                "return out, ((top + torch.log(total)) * 1.4426950408889634)[..., 0]",
            ),
        ),
        source="vLLM #52796, #28840, SGLang #40903, #35045, PyTorch #181824",
        world=2,
        caught_by=("forward", "lse"),
        capabilities=DECODING,
    ),
    Mutant(
        name="T48",
        mistake="the merge of parts that are all empty is NaN",
        base="decoding",
        changes=(('    top = top.masked_fill(top == float("-inf"), 0.0)  # nothing seen by any rank\n', ""),),
        source="FlashInfer #4051, vLLM #27491",
        caught_by=("forward", "lse"),
        capabilities=DECODING,
    ),
    Mutant(
        name="T49",
        mistake="the lse is written only where keys are on several ranks",
        base="decoding",
        changes=(
            (
                "    out, lse = merged(outs, lses)\n",
                "    out, lse = merged(outs, lses)\n    if world_size == 1:\n        lse = torch.zeros_like(lse)\n",
            ),
        ),
        source="aiter #3606",
        caught_by=("lse",),
        capabilities=DECODING,
    ),
    Mutant(
        name="T50",
        mistake="the positions of keys are cut from those of the queries",
        base="bottom_right",
        changes=(
            (
                "    own = sizes.part(sizes.queries, sizes.rank)\n    seen",
                "    own = sizes.part(sizes.queries, sizes.rank)\n"
                "    if sizes.queries:\n"
                "        positions = places[positions.clamp(max=sizes.queries - 1)].clamp(min=0)\n"
                "    seen",
            ),
        ),
        source="maxtext #5001",
        caught_by=("forward", "gradients"),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="T51",
        mistake="rows that belong after all others are put behind the rank's own, and their positions follow those",
        base="bottom_right",
        changes=((JOINED, JOINED.replace("sizes.keys)", "int(sizes.part(sizes.keys, sizes.rank)[-1:].sum()) + 1)")),),
        source="xDiT #611, vllm-omni #673",
        world=2,
        caught_by=("forward", "gradients"),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="T52",
        mistake="rows that every rank has are put to the keys of every rank, and count as often as there are ranks",
        base="bottom_right",
        changes=(
            (
                "found.append((joint_key, joint_value, place))",
                "found += [(joint_key, joint_value, place)] * sizes.world_size",
            ),
        ),
        source="vllm-omni #4689",
        world=2,
        caught_by=("forward", "gradients"),
        capabilities=LENGTHS,
    ),
    Mutant(
        name="T53",
        mistake="where there are rows that every rank has, keys never go around the ring",
        base="bottom_right",
        changes=((_OWN_BLOCK, "        if hop == 0 or joint_key is None:\n    " + _OWN_BLOCK),),
        source="SGLang #24053, #33353",
        world=2,
        caught_by=("forward", "gradients"),
        capabilities=LENGTHS,
    ),
)
