"""What the right answer is: dilated attention by its definition, in float64, with numpy alone.

    import numpy as np
    from attention_gate import reference

    query, key, value = np.random.default_rng(0).normal(size=(3, 1, 7, 2, 4))   # batch, length, heads, head_dim
    out, lse = reference.dilated_attention(query, key, value, segment_lengths=[3, 7], dilation_rates=[1, 2])

The whole operator is one integer matrix, M[h, i, j], the number of branches in which query i of head h sees key j:

    s_ij  = scale * q_i . k_j                    lse_i = log sum_j M_ij exp(s_ij)
    P_ij  = M_ij exp(s_ij - lse_i)               out_i = sum_j P_ij v_j

`branches` and `multiplicity` make M, `attention` and `attention_gradients` take any M, and `dilated_attention` and its
gradients join the two, in LongNet's dialect (arXiv 2307.02486) or in those of other libraries.
"""

from attention_gate.reference._attention import Gradients, attention, attention_gradients, weights
from attention_gate.reference._branches import Branch, branches, selected
from attention_gate.reference._dilated import dilated_attention, dilated_attention_gradients
from attention_gate.reference._visibility import DIALECTS, branch_masks, head_offsets, multiplicity

__all__ = [
    "DIALECTS",
    "Branch",
    "Gradients",
    "attention",
    "attention_gradients",
    "branch_masks",
    "branches",
    "dilated_attention",
    "dilated_attention_gradients",
    "head_offsets",
    "multiplicity",
    "selected",
    "weights",
]
