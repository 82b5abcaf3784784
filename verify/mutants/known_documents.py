"""Known mistakes with packed documents: boundaries ignored, rounded, rebuilt, read wrongly."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant
from attention_gate.verify.mutants.term_changes import ADMITTED, ALL_TERMS, SAME_DOCUMENT, TAKEN, both_ways, then

_READ_BACK = "        call, terms, dtype, head_dim = ctx.call, ctx.terms, kv.dtype, q.shape[-1]\n"
_GRADS = "        grads = [heads_first(grad)"


def _documents(made: str) -> tuple[str, str]:
    """Other documents, where some are given; ``made`` is their list, of ``lengths``."""
    return then(
        "    if document_lengths:\n"
        "        lengths = list(document_lengths)\n"
        f"        terms = terms._replace(documents={made})\n"
    )


KNOWN_DOCUMENTS = (
    Mutant(
        name="T01",
        mistake="a causal call is causal over the whole packed row: documents are ignored",
        base="term_ring",
        changes=((TAKEN, TAKEN.replace("document_lengths", "None if is_causal else document_lengths")),),
        source="axolotl #3608",
        caught_by=("forward", "gradients"),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T02",
        mistake="on several ranks documents, window and mask are replaced by a causal mask",
        base="term_ring",
        changes=(
            then(
                "    if call.world_size > 1 and not (document_lengths is None and window is None and mask is None):\n"
                "        call = call._replace(is_causal=True)\n"
                "        terms = terms._replace(documents=None, window=None, mask=None)\n"
            ),
        ),
        source="trl #6843, accelerate #4177",
        world=2,
        caught_by=("forward", "gradients"),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T03",
        mistake="of a document whose length the ranks do not divide, the keys of the last rows are dropped",
        base="term_ring",
        changes=(
            *both_ways("            ALLOWED = ALLOWED & divided(terms, call)[keys]\n"),
            (
                "class _TermRing(",
                "def divided(terms: Terms, call: Call) -> Tensor:\n"
                "    kept = torch.ones(call.length, dtype=torch.bool)\n"
                "    first = 0\n"
                "    for length in terms.documents or ():\n"
                "        kept[first + length // call.world_size * call.world_size : first + length] = False\n"
                "        first += length\n"
                "    return kept\n\n\nclass _TermRing(",
            ),
        ),
        source="TransformerEngine #1930",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T04",
        mistake="the last document reaches up to a multiple of twice the ranks: its padding is not looked for",
        base="term_ring",
        changes=(
            _documents(
                "[*lengths[:-1], min(lengths[-1] + call.length - sum(lengths), -(-lengths[-1] // (2 * call.world_size))"
                " * 2 * call.world_size)]"
            ),
        ),
        source="TransformerEngine #3331",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T05",
        mistake="documents are numbered anew on each shard, from its first row on",
        base="term_ring",
        changes=(
            (
                SAME_DOCUMENT,
                "((numbers[rows] - numbers[rows[:1]])[:, None] == numbers[keys] - numbers[keys[:1]])",
            ),
        ),
        source="prime-rl #2392",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T06",
        mistake="the rows after the last document are taken for rows of it",
        base="term_ring",
        changes=(_documents("[*lengths[:-1], call.length - sum(lengths[:-1])]"),),
        source="NeMo RL #4070: padded boundaries passed as the true ones",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T07",
        mistake="the list of boundaries ends where its smallest entry is, and that is its first one",
        base="term_ring",
        changes=(
            _documents("lengths[: (ends := [sum(lengths[:k]) for k in range(len(lengths) + 1)]).index(min(ends))]"),
        ),
        source="Megatron-Bridge #4400",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T08",
        mistake="an empty document at the end begins at a row that is not there",
        base="term_ring",
        changes=(
            (
                "    numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))\n"
                "    return torch.cat((numbers, torch.full((length - len(numbers),), -1)))\n",
                "    ends = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)\n"
                "    marks = torch.zeros(length, dtype=torch.int64)\n"
                "    marks[ends[:-1]] = 1\n"
                "    return (marks.cumsum(0) - 1).masked_fill(torch.arange(length) >= ends[-1], -1)\n",
            ),
        ),
        source="VeOmni #845: sharding repeats a boundary",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T09",
        mistake="the path for grouped heads knows no documents",
        base="term_ring",
        changes=(
            (
                TAKEN,
                TAKEN.replace("document_lengths", "document_lengths if query.shape[2] == key.shape[2] else None"),
            ),
        ),
        source="axolotl #3796: one implementation is not on the list whose mask comes from positions",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T10",
        mistake="with documents each rank attends to its own rows only",
        base="term_ring",
        changes=both_ways("            ALLOWED = ALLOWED & (terms.documents is None or source == call.rank)\n"),
        source="Automodel #2999: the module is never bound to the group",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T11",
        mistake="of two entry points, the one that returns the lse drops the mask",
        base="term_ring",
        changes=((TAKEN, TAKEN.replace("mask", "None if return_lse else mask")),),
        source="Automodel #2622",
        caught_by=("lse",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T12",
        mistake="the backward pass reads the lse of packed rows as (rows, heads)",
        base="term_ring",
        changes=(
            (
                _READ_BACK,
                _READ_BACK
                + "        if terms.documents is not None:\n"
                + "            lse = lse.transpose(1, 2).reshape(lse.shape)\n",
            ),
        ),
        source="ring-flash-attention #46, #44",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T13",
        mistake="the gradient of the row at which an empty document begins is never written",
        base="term_ring",
        changes=(
            (
                _GRADS,
                "        if terms.documents and 0 in terms.documents:\n"
                "            first = sum(terms.documents[: terms.documents.index(0)])\n"
                "            grad_k[:, :, rows == first] = float('nan')\n" + _GRADS,
            ),
        ),
        source="flash-attention #2568, #2421, #2470, #1155",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T14",
        mistake="documents of one row, one of them empty, and grouped heads: rows are taken for documents",
        base="term_ring",
        changes=(
            (
                ADMITTED,
                ADMITTED
                + "    rows_alone = bool(document_lengths) and set(document_lengths) == {0, 1}\n"
                + "    if rows_alone and query.shape[2] > key.shape[2]:\n"
                + "        value = value.roll(1, dims=1)\n",
            ),
        ),
        source="flash-attention #1537, #1619",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
)
