"""The ways in which one correct attention differs from another, and a name for each combination that is tried."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Style:
    """How an attention computes. Every combination of the first part is correct; each of the second is a mistake.

    - ``transport``: "gather", "ring", "ring-back", "both-ways", "heads" (all-to-all over heads, where they divide) or
      "hybrid" (half of the ranks have the heads among them, two such halves make a ring).
    - ``softmax``: "logsumexp" of each block, "exp2" (base 2 throughout), "running" (numerator, denominator, maximum),
      or blocks merged by "sigmoid" or "logaddexp", as published rings do it.
    - ``autograd``: gradients by autograd through the merges (of "sigmoid" and "logaddexp"), not by formulas.
    - ``order`` of merges: "forward", "reverse" or "tree"; ``branchwise``: each branch is a block of its own, instead of
      counts within one; ``query_rows``, ``key_rows``: the size of a chunk.
    - ``wide``: accumulate in float64 whatever the inputs; ``scale_query``: scale the queries, in the accumulator.
    - ``round_weights``, ``round_blocks``, ``round_dS``, ``round_delta``, ``round_heads``: what a fused kernel rounds to
      the inputs' dtype: P before P V and P^T dO; each block's output and gradients; dS; the output that D is taken
      from; each query head's gradients of keys and values, before those of a kv head are added up.
    - ``guard``: what is added to a denominator.
    """

    transport: str = "gather"
    softmax: str = "logsumexp"
    order: str = "forward"
    branchwise: bool = False
    query_rows: int | None = None
    key_rows: int | None = None
    wide: bool = False
    scale_query: bool = False
    round_weights: bool = False
    round_blocks: bool = False
    round_dS: bool = False
    round_heads: bool = False
    round_delta: bool = True
    guard: float = 0.0
    autograd: bool = False

    #: Mistakes: what is kept in the inputs' dtype although it must not be.
    narrow_output: bool = False
    narrow_lse: bool = False
    narrow_scores: bool = False
    narrow_travel: bool = False
    narrow_query_gradient: bool = False

    def accumulator(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype that sums are kept in."""
        return torch.float64 if self.wide or dtype == torch.float64 else torch.float32


#: What a fused kernel of today does.
_FLASH = {"round_weights": True, "round_blocks": True, "round_dS": True}

STYLES = {
    "plain": Style(round_delta=False),
    "flash": Style(**_FLASH, transport="ring"),
    "flash_gathered": Style(**_FLASH, branchwise=True, softmax="running"),
    "flash_branches": Style(**_FLASH, branchwise=True, transport="ring", key_rows=5),
    "flash_grouped": Style(**_FLASH, round_heads=True, transport="ring"),
    "kernel_of_float32_blocks": Style(round_weights=True, round_dS=True, transport="ring"),
    "reverse": Style(order="reverse", transport="ring-back", branchwise=True),
    "tree": Style(order="tree", branchwise=True, key_rows=5),
    "flash_tree": Style(**_FLASH, order="tree", branchwise=True, transport="both-ways"),
    "query_chunks": Style(query_rows=5, key_rows=7, softmax="running"),
    "ring": Style(transport="ring", branchwise=True),
    "ring_back": Style(transport="ring-back"),
    "both_ways": Style(transport="both-ways", branchwise=True),
    "heads": Style(transport="heads"),
    "flash_heads": Style(**_FLASH, transport="heads", branchwise=True),
    "wide": Style(wide=True, transport="ring"),
    "exp2": Style(softmax="exp2", transport="ring", scale_query=True),
    "flash_hybrid": Style(**_FLASH, transport="hybrid"),
    "flash_exp2": Style(**_FLASH, softmax="exp2", transport="ring-back", branchwise=True),
    "running_maximum": Style(softmax="running", transport="ring", key_rows=3),
    "scaled_query": Style(scale_query=True, branchwise=True, transport="both-ways"),
    "guarded": Style(guard=1e-30, softmax="running", transport="ring"),
    "sigmoid": Style(softmax="sigmoid", transport="ring", branchwise=True),
    "sigmoid_autograd": Style(softmax="sigmoid", transport="ring", autograd=True),
    "sigmoid_branches": Style(softmax="sigmoid", transport="ring", branchwise=True, autograd=True, key_rows=4),
    "flash_sigmoid": Style(**_FLASH, softmax="sigmoid", transport="ring", autograd=True),
    "logaddexp": Style(softmax="logaddexp", transport="ring-back", branchwise=True),
    "logaddexp_autograd": Style(softmax="logaddexp", transport="ring-back", branchwise=True, autograd=True),
}
