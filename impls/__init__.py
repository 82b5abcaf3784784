"""Two distributed implementations of LongNet's dilated attention: Collective gathers, Robust is a ring.

from attention_gate.impls import RingDilatedAttentionRobust
from attention_gate.impls.robust import attend

Both run on fused kernels where devices, dtypes and shapes allow: `path_for` says which, and `kernels` chooses.
"""

from attention_gate.impls.document_order import document_zigzag
from attention_gate.impls.modules import RingDilatedAttentionCollective, RingDilatedAttentionRobust
from attention_gate.impls.path import Path, kernels, path_for

__all__ = [
    "Path",
    "RingDilatedAttentionCollective",
    "RingDilatedAttentionRobust",
    "document_zigzag",
    "kernels",
    "path_for",
]
