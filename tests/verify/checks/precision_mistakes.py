"""Small implementations with one mistake of precision each; element by element most of their errors are in bounds."""

from __future__ import annotations

from functools import partial

from attention_gate.verify.target.target import Target
from tests.verify.correct.attend import attend
from tests.verify.correct.style import Style

FLASH = {"round_weights": True, "round_blocks": True, "round_dS": True, "transport": "ring"}

MISTAKES = {
    "running_output": Style(transport="ring", narrow_output=True),
    "running_output_by_branch": Style(transport="ring", branchwise=True, narrow_output=True),
    "lse": Style(transport="ring", narrow_lse=True),
    "flash_lse": Style(**FLASH, narrow_lse=True),
    "travelling_gradients": Style(transport="ring", narrow_travel=True),
    "flash_travelling_gradients": Style(**FLASH, narrow_travel=True),
    "scores": Style(transport="ring", narrow_scores=True),
    "query_gradient": Style(transport="ring", branchwise=True, narrow_query_gradient=True),
}

globals().update(
    {name: Target(attend=partial(attend, style=style), refusals=False) for name, style in MISTAKES.items()}
)
