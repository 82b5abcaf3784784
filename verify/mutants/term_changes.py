"""Changes that several mistakes with optional terms share, and what such mutants declare."""

from __future__ import annotations

from typing import Any

#: All mutants with terms declare all that their bases take, as a program does that takes everything.
ALL_TERMS: dict[str, Any] = {"terms": ("window", "documents", "mask", "softcap", "slopes", "sink")}

#: Where the terms are made of the arguments, and where they and the call are known.
TAKEN = "terms = Terms(document_lengths, window, mask, softcap, slopes, sink)"
ADMITTED = "        stated_by(terms),\n    )\n"

#: Which keys a block's rows may see, forward and backward.
FORTH = "            allowed = terms.allowed(call.length, heads, rows, keys)\n"
BACK = "            allowed_back = terms.allowed(call.length, heads, rows, keys)\n"

#: The tests of documents and of a window's left bound.
SAME_DOCUMENT = "(numbers[rows][:, None] == numbers[keys])"
LEFT = "queries - left <= keys"

#: Where the mask is asked, and where the sink's part is added.
ASKED = "self.mask(heads[:, None, None], queries, keys)"
SUNK = "out, lse = with_sink(out, lse, sink)\n"

#: What is kept from call to call, as ``_KEPT``.
KEEPING = ("class Terms(", "_KEPT: dict[tuple[int, ...], Tensor] = {}\n\n\nclass Terms(")


def then(more: str) -> tuple[str, str]:
    """What is done once the call is admitted; ``more`` are lines of the function."""
    return ADMITTED, ADMITTED + more


def both_ways(more: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """The same done to what is allowed in a block, forward and backward; ``more`` has ALLOWED for its name."""
    return (FORTH, FORTH + more.replace("ALLOWED", "allowed")), (BACK, BACK + more.replace("ALLOWED", "allowed_back"))


#: Each rank owns a part from the front and one from the back; right, as long as positions are taken for what they are.
ZIGZAG: tuple[tuple[str, str], ...] = (
    (
        "        return torch.arange(self.length).tensor_split(self.world_size)[rank % self.world_size]\n",
        "        parts = torch.arange(self.length).tensor_split(2 * self.world_size)\n"
        "        return torch.cat((parts[rank % self.world_size], parts[-1 - rank % self.world_size]))\n",
    ),
    (
        "        owned = len(torch.arange(sequence_length).tensor_split(world_size)[rank])\n",
        "        parts = torch.arange(sequence_length).tensor_split(2 * world_size)\n"
        "        owned = len(parts[rank]) + len(parts[-1 - rank])\n",
    ),
)

#: Where each position stands among the rows of all ranks, rank after rank.
PLACES = (
    "class _TermRing(",
    "def places(call: Call) -> Tensor:\n"
    "    return torch.cat([call.shard(rank) for rank in range(call.world_size)]).argsort()\n\n\nclass _TermRing(",
)
