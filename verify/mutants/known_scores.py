"""Known mistakes with sinks, soft caps and slopes: dropped, clamped, taken by other heads or at other positions."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant
from attention_gate.verify.mutants.term_changes import ALL_TERMS, SUNK, TAKEN

_SHARED = "return out * torch.sigmoid(gap)[..., None], torch.logaddexp(lse.detach(), logit.detach())"
_GAP = "gap = (lse - logit)"

KNOWN_SCORES = (
    Mutant(
        name="T22",
        mistake="on several ranks the sink is dropped, and its gradient is exactly 0",
        base="term_ring",
        changes=(
            (
                SUNK,
                "out, lse = with_sink(out, lse, sink if call.world_size == 1 else None)\n"
                "    out = out if sink is None else out + 0.0 * sink.nan_to_num().sum()\n",
            ),
        ),
        source="TransformerEngine #3551, #2541",
        world=2,
        caught_by=("forward", "gradients"),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T23",
        mistake="the sink is swallowed by **kwargs",
        base="term_ring",
        changes=((SUNK, "out, lse = with_sink(out, lse, None)\n"),),
        source="prime-rl #3397",
        caught_by=("forward", "lse", "gradients"),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T24",
        mistake="heads are dealt out to the ranks, and the sinks are not",
        base="term_heads",
        changes=(("else sink[heads]", "else sink[: len(heads)]"),),
        source="verl #4551, SkyRL #558",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T25",
        mistake="the logarithm of the factor by which a sink rescales a row is clamped to -20",
        base="term_ring",
        changes=(
            (
                _SHARED,
                _SHARED.replace("torch.sigmoid(gap)", "torch.exp(-torch.log1p(torch.exp(-gap)).clamp(max=20.0))"),
            ),
        ),
        source="torchtitan #2211",
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T26",
        mistake="the sink has no part in the largest score: exp(sink - max) overflows",
        base="term_ring",
        changes=(
            (
                _SHARED,
                "extra = torch.exp(-gap)\n"
                "    return out / (1.0 + extra)[..., None], lse.detach() + torch.log1p(extra.detach())",
            ),
        ),
        source="flash-attention #2752, PaddleFleet #1439",
        caught_by=("lse", "gradients"),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T27",
        mistake="the sink has no gradient",
        base="term_ring",
        changes=(("logit = sink.to(lse.dtype)", "logit = sink.detach().to(lse.dtype)"),),
        source="flash-attention #1973, #2102",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T28",
        mistake="the path for half types has no sink",
        base="term_ring",
        changes=((SUNK, SUNK.replace("sink)", "sink if query.dtype.itemsize > 2 else None)")),),
        source="imp #1345, #1303, vllm-metal #550: several reduction paths, the sink wired in one",
        caught_by=("combinations",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T29",
        mistake="a soft cap is accepted and not applied",
        base="term_ring",
        changes=((TAKEN, TAKEN.replace("softcap", "None")),),
        source="sgl-kernel-xpu #491",
        caught_by=("forward", "gradients"),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T30",
        mistake="the distance for slopes is that of rows within their blocks",
        base="term_ring",
        changes=(
            (
                "(rows[:, None] - keys).abs()",
                "(torch.arange(len(rows))[:, None] - torch.arange(len(keys))).abs()",
            ),
        ),
        source="TransformerEngine #1046",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T31",
        mistake="heads are dealt out to the ranks, and slopes are taken by the number of a head on its rank",
        base="term_heads",
        changes=(("dtype=products.dtype)[heads]", "dtype=products.dtype)[: len(heads)]"),),
        source="flashinfer #1606, #5101, Megatron-DeepSpeed #227",
        world=2,
        caught_by=("forward",),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T32",
        mistake="slopes have the wrong sign",
        base="term_ring",
        changes=(("products = products - slopes", "products = products + slopes"),),
        source="attention-gym #86",
        caught_by=("forward", "gradients"),
        capabilities=ALL_TERMS,
    ),
    Mutant(
        name="T39",
        mistake="the gradient that reaches the lse is dropped, and with it the sink's effect on the weights",
        base="term_ring",
        changes=((_GAP, _GAP.replace("lse -", "lse.detach() -")),),
        source="VeOmni #1021",
        caught_by=("gradients",),
        capabilities=ALL_TERMS,
    ),
)
