"""Variants of the known mistakes with sinks, soft caps and slopes."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant
from attention_gate.verify.mutants.term_changes import ALL_TERMS, SUNK

_LSE = "torch.logaddexp(lse.detach(), logit.detach())"
_CAPPED = (
    "        if self.softcap is not None:\n"
    "            ratio = torch.tanh(products / self.softcap)\n"
    "            slope_of_cap = 1.0 - ratio**2\n"
    "            products = self.softcap * ratio\n"
)
_SLOPED = (
    "        if self.slopes is not None:\n"
    "            slopes = torch.tensor(self.slopes, dtype=products.dtype)[heads]\n"
    "            products = products - slopes[:, None, None] * (rows[:, None] - keys).abs()\n"
)
_BACK = "scores, slope_of_cap = terms.scored("


def _with_sink(sink: str) -> tuple[tuple[str, str], ...]:
    """Another sink, where one is given."""
    return ((SUNK, f"out, lse = with_sink(out, lse, None if sink is None else {sink})\n"),)


OTHER_SCORES = (
    Mutant(
        name="X121",
        mistake="the derivative of the soft cap is left out of the gradients",
        base="term_ring",
        changes=(("(grad_out @ v.mT - delta) * slope_of_cap", "(grad_out @ v.mT - delta)"),),
        source="T29",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X122",
        mistake="scores are capped after the slopes",
        base="term_ring",
        changes=((_CAPPED + _SLOPED, _SLOPED + _CAPPED),),
        source="T29, ONNX's order",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X123",
        mistake="scores are capped in the forward pass only",
        base="term_ring",
        changes=((_BACK, "scores, slope_of_cap = terms._replace(softcap=None).scored("),),
        source="T21",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X124",
        mistake="slopes times (key - query), which rewards the keys ahead",
        base="term_ring",
        changes=(("(rows[:, None] - keys).abs()", "(rows[:, None] - keys)"),),
        source="T32",
        caught_by=("combinations",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X125",
        mistake="slopes count in the forward pass only",
        base="term_ring",
        changes=((_BACK, "scores, slope_of_cap = terms._replace(slopes=None).scored("),),
        source="T21",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X126",
        mistake="slopes are taken in the dtype of bfloat16",
        base="term_ring",
        changes=(
            (
                "torch.tensor(self.slopes, dtype=products.dtype)[heads]",
                "torch.tensor(self.slopes, dtype=torch.bfloat16).to(products.dtype)[heads]",
            ),
        ),
        source="T31",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X127",
        mistake="the sink counts once for each rank",
        base="term_ring",
        changes=_with_sink("sink + torch.tensor(call.world_size, dtype=torch.float64).log().item()"),
        source="T22",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X128",
        mistake="the sink counts once for each branch",
        base="term_ring",
        changes=_with_sink("sink + torch.tensor(len(call.branches), dtype=torch.float64).log().item()"),
        source="T22",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X129",
        mistake="the lse is that without the sink",
        base="term_ring",
        changes=((_LSE, "lse.detach()"),),
        source="T23",
        caught_by=("lse",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X130",
        mistake="the query heads of a kv head have the first one's sink",
        base="term_ring",
        changes=_with_sink(
            "sink[torch.arange(len(sink)) // (query.shape[2] // key.shape[2]) * (query.shape[2] // key.shape[2])]"
        ),
        source="T24",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X131",
        mistake="the sink is scaled like a score",
        base="term_ring",
        changes=_with_sink("sink * call.scale if call.scale else sink"),
        source="T23",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X132",
        mistake="the sink is capped like a score",
        base="term_ring",
        changes=_with_sink("softcap * torch.tanh(sink / softcap) if softcap else sink"),
        source="T29",
        caught_by=("combinations",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X133",
        mistake="the lse of a row that sees nothing but the sink is -inf",
        base="term_ring",
        changes=((_LSE, _LSE + ".masked_fill(lse.isneginf(), float('-inf'))"),),
        source="T37",
        caught_by=("lse",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="X134",
        mistake="the sink's gradient is that of the first row of the batch alone",
        base="term_ring",
        changes=(
            (
                "    logit = sink.to(lse.dtype)[:, None]\n",
                "    logit = sink.to(lse.dtype)[:, None].expand(lse.shape)\n"
                "    logit = torch.cat((logit[:1], logit[1:].detach()))\n",
            ),
        ),
        source="T27",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
)
