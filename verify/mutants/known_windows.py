"""Known mistakes with sliding windows and masks: bounds off, lost on the way, taken at other positions."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant
from attention_gate.verify.mutants.term_changes import (
    ALL_TERMS,
    ASKED,
    BACK,
    FORTH,
    KEEPING,
    LEFT,
    PLACES,
    ZIGZAG,
    then,
)

_COUNTED = "    count = torch.stack(masks).sum(dim=0)\n"
_RETURNED = "return (out, lse.detach()) if return_lse else out\n\n\nclass _TermRing("
_ALL_SEEN = "seen = torch.ones(len(rows), len(keys), dtype=torch.bool)"


def _by_place(term: str) -> tuple[tuple[str, str], ...]:
    """A term taken at the places of rows among the ranks' rows, and not at their positions."""
    others = ", ".join(f"{name}=None" for name in ("documents", "window", "mask") if name != term)
    return tuple(
        (
            old,
            old.replace("terms.allowed", f"terms._replace({term}=None).allowed").rstrip()
            + f" & terms._replace({others}).allowed(\n"
            "                call.length, heads, places(call)[rows], places(call)[keys]\n            )\n",
        )
        for old in (FORTH, BACK)
    )


KNOWN_WINDOWS = (
    Mutant(
        name="T15",
        mistake="a window of W keys becomes one of W + 1",
        base="term_ring",
        changes=((LEFT, "queries - left - 1 <= keys"),),
        source="transformers #39408, zml #763, vLLM #3385, xformers #923",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T16",
        mistake="the window's left bound is made negative, and a negative bound means none",
        base="term_ring",
        changes=(("            if left is not None:", "            if left is not None and not -left < 0:"),),
        source="hippogriff #7",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T17",
        mistake="on several ranks the window is read by another name than it has",
        base="term_ring",
        changes=(then("    if call.world_size > 1:\n        terms = terms._replace(window=None)\n"),),
        source="prime-rl #2828",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T18",
        mistake="the window's bound is shifted by the distance of the blocks, on the wrong side",
        base="term_ring",
        changes=(
            (
                LEFT,
                "queries - left <= keys + (keys[0] - rows[0] if len(rows) and len(keys) else 0)",
            ),
        ),
        source="lm-engine #447",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T19",
        mistake="the start of the window is rounded down to a page of four rows",
        base="term_ring",
        changes=((LEFT, "(queries - left) // 4 * 4 <= keys"),),
        source="exllamav3 #378",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T20",
        mistake="rows are in zigzag order, and the window is taken at the places of rows, not at their positions",
        base="term_ring",
        changes=(*ZIGZAG, PLACES, *_by_place("window")),
        source="maxtext #4364",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS | {"layout": "zigzag"},
    ),
    Mutant(
        name="T21",
        mistake="the window counts in the forward pass only",
        base="term_ring",
        changes=((BACK, BACK.replace("terms.allowed", "terms._replace(window=None).allowed")),),
        source="aiter #3742",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T33",
        mistake="rows are in zigzag order, and the mask is cut for contiguous ones",
        base="term_ring",
        changes=(*ZIGZAG, PLACES, *_by_place("mask")),
        source="diffusers #13696",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS | {"layout": "zigzag"},
    ),
    Mutant(
        name="T34",
        mistake="every rank takes the first rows of the mask",
        base="term_ring",
        changes=((ASKED, "self.mask(heads[:, None, None], queries - queries[:1], keys)"),),
        source="Cornstarch #38",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T35",
        mistake="keys are padded to a tile of four, and the mask is asked about those past the end",
        base="term_heads",
        changes=(
            (
                _COUNTED,
                _COUNTED + "    if terms.mask is not None and (more := -call.length % 4):\n"
                "        keys = torch.arange(call.length + more)\n"
                "        k, v = (F.pad(tensor, (0, 0, 0, more)) for tensor in (k, v))\n"
                "        asked = terms.mask(heads[:, None, None], rows[:, None], keys[call.length :])\n"
                "        count = torch.cat((count, asked.expand(len(heads), -1, -1)), dim=-1)\n",
            ),
        ),
        source="PyTorch #137801",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T36",
        mistake="the mask is added as -inf, and NaN weights of a row that sees nothing are set to 0 afterwards",
        base="term_heads",
        changes=(
            (
                'scores.masked_fill(count == 0, float("-inf"))',
                'scores + torch.zeros_like(scores).masked_fill(count == 0, float("-inf"))',
            ),
            (".amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)", ".amax(dim=-1, keepdim=True)"),
            ("count * torch.exp(scores - top)", "count * torch.exp(scores - top).nan_to_num(0.0)"),
        ),
        source="PyTorch #196170, RL-Kernel #238",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T37",
        mistake="the lse of a row that sees nothing is 0",
        base="term_ring",
        changes=((_RETURNED, _RETURNED.replace("detach()", "detach().masked_fill(lse.isneginf(), 0.0)")),),
        source="PyTorch #134650",
        caught_by=("lse",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T38",
        mistake="a mask that is kept for its shape is modified in place",
        base="term_ring",
        changes=(
            (_ALL_SEEN, _ALL_SEEN.replace("torch.ones", "_KEPT.setdefault((len(rows), len(keys)), torch.ones") + ")"),
            ("seen = seen & (numbers[rows]", "seen &= (numbers[rows]"),
            KEEPING,
        ),
        source="vllm-ascend #1678",
        caught_by=("state",),
        capabilities=ALL_TERMS,
    ),
)
