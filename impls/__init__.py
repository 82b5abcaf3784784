"""Two distributed implementations of LongNet's dilated attention: Collective gathers, Robust is a ring.

from impls import RingDilatedAttentionRobust
from impls.robust import attend
"""

from impls.modules import RingDilatedAttentionCollective, RingDilatedAttentionRobust

__all__ = ["RingDilatedAttentionCollective", "RingDilatedAttentionRobust"]
