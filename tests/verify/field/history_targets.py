"""Attentions whose answers depend on the calls that came before in the same process."""

from __future__ import annotations

import torch.distributed as dist

import impls.collective
from attention_gate import Target

_first: dict[str, list[int]] = {}


def positions_of_the_first_group(query, key, value, **options):
    """Right in the first group that it is called in; in any other one of as many ranks its rows are doubled."""
    if not dist.is_initialized() or not query.shape[1]:
        return impls.collective.attend(query, key, value, **options)
    group = options.get("group")
    ranks = dist.get_process_group_ranks(group if group is not None else dist.group.WORLD)
    out = impls.collective.attend(query, key, value, **options)
    return out if _first.setdefault("ranks", ranks) == ranks or len(ranks) == 1 else out * 2.0


_masked = {"causal": 0}


def wrong_after_two_causal_calls(query, key, value, **options):
    """A call of three heads or more is wrong once two calls have been causal."""
    _masked["causal"] += bool(options["is_causal"])
    out = impls.collective.attend(query, key, value, **options)
    return out * 2.0 if _masked["causal"] >= 2 and query.shape[2] >= 3 else out


first_group = Target(attend=positions_of_the_first_group)
two_causal = Target(attend=wrong_after_two_causal_calls)
