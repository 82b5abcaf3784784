"""What the right answer is: dilated attention by its definition, in float64, with numpy alone.

    import numpy as np
    from attention_gate import reference

    query, key, value = np.random.default_rng(0).normal(size=(3, 1, 7, 2, 4))   # batch, length, heads, head_dim
    out, lse = reference.dilated_attention(query, key, value, segment_lengths=[3, 7], dilation_rates=[1, 2])

The whole operator is one integer matrix, M[h, x, j], the number of branches in which query x of head h sees key j:

    M[h, x, j]  = B[h, x, j] * [same document] * [causal: j <= x] * [x - left <= j <= x + right] * [mask(h, x, j)]
    t           = tanh(scale q.k / cap),  s = cap t   (no cap: s = scale q.k),   then  s -= slope_h |x - j|
    lse_x       = log(sum_j M exp(s) + exp(sink_h)),  P = M exp(s - lse),  out_x = sum_j P v_j
    D = dO . out,  dS = P (dO V^T - D) (1 - t^2),  dQ = scale dS K,  dK = scale dS^T Q,  dV = P^T dO
    dsink_h     = - sum_x exp(sink_h - lse_x) D_x

B counts branches; documents, window, mask, cap, slopes and sink are options that are off by default. `branches`, `rows`
and `multiplicity` make M, `attention` and `attention_gradients` take any M, and `dilated_attention` and its gradients
join the two, in LongNet's dialect (arXiv 2307.02486) or in those of other libraries. `sampled_attention` gives the same
answer for some rows of a sequence that is too long for all.
"""

from attention_gate.reference._attention import Gradients, GradientsWithSink, attention, attention_gradients, weights
from attention_gate.reference._branches import Branch, branches, selected
from attention_gate.reference._dilated import Options, dilated_attention, dilated_attention_gradients
from attention_gate.reference._passes import RowSource
from attention_gate.reference._rows import Rows, in_window, rows
from attention_gate.reference._sampled import Sampled, sampled_attention, sampled_scores
from attention_gate.reference._visibility import DIALECTS, branch_masks, head_offsets, multiplicity

__all__ = [
    "DIALECTS",
    "Branch",
    "Gradients",
    "GradientsWithSink",
    "Options",
    "RowSource",
    "Rows",
    "Sampled",
    "attention",
    "attention_gradients",
    "branch_masks",
    "branches",
    "dilated_attention",
    "dilated_attention_gradients",
    "head_offsets",
    "in_window",
    "multiplicity",
    "rows",
    "sampled_attention",
    "sampled_scores",
    "selected",
    "weights",
]
