"""Two distributed implementations of LongNet's dilated attention: Collective gathers, Robust is a ring.

from impls import RingDilatedAttentionRobust
from impls.robust import attend

Both run on fused kernels where devices, dtypes and shapes allow: `path_for` tells, and `kernels` settles it.
"""

from impls.modules import RingDilatedAttentionCollective, RingDilatedAttentionRobust
from impls.path import Path, kernels, path_for

__all__ = ["Path", "RingDilatedAttentionCollective", "RingDilatedAttentionRobust", "kernels", "path_for"]
