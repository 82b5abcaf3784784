"""The definition in plain loops over Python numbers, written from the prose:

A position is selected in a branch when its place in its segment, taken modulo the rate, is the head's offset. A query
sees a key in a branch when both are selected, both lie in one segment and, if causal, the key is not later. Each
branch in which it sees a key puts that key once into its multiset; out is the softmax mean over the multiset.
"""

import math


def longnet_offset(head, heads, rate):
    return head % rate


def torchscale_offset(head, heads, rate):
    return head // math.ceil(heads / rate)


def sees(i, j, segment_length, rate, offset, is_causal):
    both_selected = all((position % segment_length) % rate == offset for position in (i, j))
    same_segment = i // segment_length == j // segment_length
    return both_selected and same_segment and not (is_causal and j > i)


def multiset(i, head, case, offset=longnet_offset):
    """The keys that query i of this head sees, once per branch: a list in which keys may repeat."""
    return [key for keys in multiset_by_branch(i, head, case, offset) for key in keys]


def multiset_by_branch(i, head, case, offset=longnet_offset):
    return [
        [j for j in range(case.length) if sees(i, j, w, r, offset(head, case.heads, r), case.is_causal)]
        for w, r in case.pairs
    ]


def forward(case, query, key, value, offset=longnet_offset):
    """out as nested lists (batch, length, heads, value_dim), lse (batch, heads, length)."""
    query, key, value = query.tolist(), key.tolist(), value.tolist()
    scale = 1 / math.sqrt(case.head_dim) if case.scale is None else case.scale
    out = [[[[0.0] * case.value_dim for _ in range(case.heads)] for _ in range(case.length)] for _ in range(case.batch)]
    lse = [[[-math.inf] * case.length for _ in range(case.heads)] for _ in range(case.batch)]
    for b in range(case.batch):
        for h in range(case.heads):
            kv = h // case.group
            for i in range(case.length):
                seen = multiset(i, h, case, offset)
                if not seen:
                    continue
                logits = [scale * sum(x * y for x, y in zip(query[b][i][h], key[b][j][kv], strict=True)) for j in seen]
                largest = max(logits)
                terms = [math.exp(logit - largest) for logit in logits]
                total = math.fsum(terms)
                lse[b][h][i] = largest + math.log(total)
                for d in range(case.value_dim):
                    products = (term * value[b][j][kv][d] for term, j in zip(terms, seen, strict=True))
                    out[b][i][h][d] = math.fsum(products) / total
    return out, lse
