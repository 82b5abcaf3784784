"""Both implementations as layers."""

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from attention_gate.impls import collective, robust
from attention_gate.impls.arguments import check_branches, check_scale, check_sequence_length


class _RingDilatedAttention(nn.Module):
    """What the layers have in common: the options, checked once, and the call."""

    def __init__(
        self,
        segment_lengths: Sequence[int],
        dilation_rates: Sequence[int],
        *,
        scale: float | None = None,
        sequence_length: int | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.segment_lengths, self.dilation_rates = check_branches(segment_lengths, dilation_rates)
        self.scale = check_scale(scale)
        self.sequence_length = check_sequence_length(sequence_length)
        self.group = group

    def _options(self) -> dict[str, Any]:
        return {
            "segment_lengths": self.segment_lengths,
            "dilation_rates": self.dilation_rates,
            "scale": self.scale,
            "sequence_length": self.sequence_length,
            "group": self.group,
        }

    def extra_repr(self) -> str:
        return (
            f"segment_lengths={self.segment_lengths}, dilation_rates={self.dilation_rates}, scale={self.scale}, "
            f"sequence_length={self.sequence_length}"
        )


class RingDilatedAttentionCollective(_RingDilatedAttention):
    """Dilated attention over a sharded sequence; each rank gathers the keys and values that its queries see.

        layer = RingDilatedAttentionCollective([2048, 4096], [1, 2])
        out = layer(query, key, value, is_causal=True)

    Shapes, dtypes and errors are those of `impls.collective.attend`, which this calls. The layer has no parameters.
    LongNet (arXiv 2307.02486), equations 3 to 12.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, is_causal: bool = False) -> Tensor:
        """Return this rank's rows of the attention, (batch, local_length, heads, value_dim)."""
        out = collective.attend(query, key, value, is_causal=is_causal, **self._options())
        assert isinstance(out, Tensor)
        return out


class RingDilatedAttentionRobust(_RingDilatedAttention):
    """Dilated attention over a sharded sequence; each rank passes keys and values around a ring while it computes.

        layer = RingDilatedAttentionRobust([2048, 4096], [1, 2])
        out = layer(query, key, value, is_causal=True)

    Shapes, dtypes and errors are those of `impls.robust.attend`, which this calls. The layer has no parameters.
    LongNet (arXiv 2307.02486), equations 3 to 12.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, is_causal: bool = False) -> Tensor:
        """Return this rank's rows of the attention, (batch, local_length, heads, value_dim)."""
        out = robust.attend(query, key, value, is_causal=is_causal, **self._options())
        assert isinstance(out, Tensor)
        return out
