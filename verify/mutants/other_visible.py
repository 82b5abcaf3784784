"""Variants of the known mistakes with documents, windows and masks."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant
from attention_gate.verify.mutants.term_changes import (
    ADMITTED,
    ALL_TERMS,
    ASKED,
    BACK,
    KEEPING,
    LEFT,
    SAME_DOCUMENT,
    both_ways,
    then,
)

_NUMBERED = "numbers = document_numbers(self.documents, length)"
_RIGHT = "keys <= queries + right"
_CLAMPED = '    scores = scores.masked_fill(~seen, float("-inf"))\n    top = scores.amax(dim=-1, keepdim=True)'

OTHER_VISIBLE = (
    Mutant(
        name="X101",
        mistake="each document ends a row late: its boundary is taken for its last row",
        base="term_ring",
        changes=((_NUMBERED, f"{_NUMBERED}[(torch.arange(length) - 1).clamp(min=0)]"),),
        source="T05",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X102",
        mistake="the rows that belong to no document see each other",
        base="term_ring",
        changes=((f"{SAME_DOCUMENT} & (numbers[keys] >= 0)", SAME_DOCUMENT),),
        source="T06",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X103",
        mistake="documents count in the forward pass only",
        base="term_ring",
        changes=((BACK, BACK.replace("terms.allowed", "terms._replace(documents=None).allowed")),),
        source="T21",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X104",
        mistake="the numbers of rows are kept for as many documents of as many rows, whatever their boundaries",
        base="term_ring",
        changes=(
            (
                _NUMBERED,
                "numbers = _KEPT.setdefault((len(self.documents), length), document_numbers(self.documents, length))",
            ),
            KEEPING,
        ),
        source="T38",
        caught_by=("state",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X105",
        mistake="the window's right bound is ignored",
        base="term_ring",
        changes=((_RIGHT, "keys <= keys"),),
        source="T16",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X106",
        mistake="a window switches the causal mask off",
        base="term_ring",
        changes=(then("    if window is not None:\n        call = call._replace(is_causal=False)\n"),),
        source="T02, flash-attention's mask functions",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X107",
        mistake="a block is skipped where the window ends at its last key",
        base="term_ring",
        changes=both_ways(
            "            left = terms.window[0] if terms.window and len(rows) and len(keys) else None\n"
            "            if left is not None and source != call.rank:\n"
            "                ALLOWED = ALLOWED & (keys[-1] > rows[0] - left)\n"
        ),
        source="T18",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X108",
        mistake="a window of W keys becomes one of W - 1",
        base="term_ring",
        changes=((LEFT, "queries - max(left - 1, 0) <= keys"),),
        source="T15",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X109",
        mistake="the mask of the first head is taken for all heads",
        base="term_ring",
        changes=((ASKED, "self.mask(0 * heads[:, None, None], queries, keys)"),),
        source="T34",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X110",
        mistake="the mask is asked with query and key exchanged",
        base="term_ring",
        changes=((ASKED, "self.mask(heads[:, None, None], keys, queries)"),),
        source="T34",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X111",
        mistake="the mask counts in the forward pass only",
        base="term_ring",
        changes=((BACK, BACK.replace("terms.allowed", "terms._replace(mask=None).allowed")),),
        source="T21",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X112",
        mistake="the mask is asked by the number of a head on its rank",
        base="term_heads",
        changes=((ASKED, "self.mask(torch.arange(len(heads))[:, None, None], queries, keys)"),),
        source="T31",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X113",
        mistake="the mask of a block is kept for its shape and its first key, whichever mask it is",
        base="term_ring",
        changes=(
            (
                ASKED,
                "_KEPT.setdefault(\n"
                "                (len(heads), len(rows), len(keys), *rows[:1].tolist(), *keys[:1].tolist()),\n"
                f"                {ASKED},\n"
                "            )",
            ),
            KEEPING,
        ),
        source="T38",
        caught_by=("state",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X114",
        mistake="the first row of a document that begins on another rank sees nothing of it",
        base="term_ring",
        changes=(
            *both_ways(
                "            if terms.documents is not None and source != call.rank:\n"
                "                ALLOWED = ALLOWED & (rows != rows[:1])[:, None]\n"
            ),
        ),
        source="T05",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X115",
        mistake="a row that sees nothing in a block makes the block's result NaN",
        base="term_ring",
        changes=((f"{_CLAMPED}.clamp(min=torch.finfo(scores.dtype).min)", _CLAMPED),),
        source="T36",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X116",
        mistake="only ranks whose rows lie in a document take part in another collective",
        base="term_ring",
        changes=(
            (
                ADMITTED,
                ADMITTED + "    if document_lengths is not None and call.world_size > 1:\n"
                "        numbers = document_numbers(document_lengths, call.length)[call.shard(call.rank)]\n"
                "        if bool((numbers >= 0).all()):\n"
                "            torch.distributed.barrier(group=call.group)\n",
            ),
        ),
        source="M44",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
)
