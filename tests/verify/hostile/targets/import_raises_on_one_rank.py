"""Can be imported everywhere but on the last rank of a world of several."""

import torch.distributed as dist

if dist.is_initialized() and dist.get_world_size() > 1 and dist.get_rank() == dist.get_world_size() - 1:
    raise RuntimeError("not on this rank")

from attention_gate.impls.robust import attend  # noqa: F401
