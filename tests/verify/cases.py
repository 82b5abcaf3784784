"""Cases for tests: small ones in which no two sizes are alike."""

import numpy as np

from attention_gate import Case
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.target.layouts import contiguous


def case_of(**changes):
    """A case of two branches; ``changes`` are fields. The length is passed unless it is asked not to be."""
    defaults = {
        "length": 7,
        "pass_length": True,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 3,
        "value_dim": 2,
        "segment_lengths": (5, 4),
        "dilation_rates": (2, 1),
    }
    return Case(**(defaults | changes))


def shards_of(case, layout=contiguous):
    """The positions that each shard of a case owns."""
    return Positions.as_many([np.asarray(layout(shard, case.shards, case.length)) for shard in range(case.shards)])
