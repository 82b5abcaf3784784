import torch.distributed as dist
from torch.distributed.nn.functional import all_reduce
from torch.nn.functional import pad, scaled_dot_product_attention

from verify import Target


def attention(query, key, value, *, scale=None, **_):
    before, length = dist.get_rank() * key.shape[1], dist.get_world_size() * key.shape[1]
    place = (0, 0, 0, 0, before, length - before - key.shape[1])
    rows = (x.transpose(1, 2) for x in (query, all_reduce(pad(key, place)), all_reduce(pad(value, place))))
    return scaled_dot_product_attention(*rows, scale=scale).transpose(1, 2)


attend = Target(
    attend=attention,
    branches="dense",
    masks=(False,),
    dtypes=("float64", "float32"),
    grouped_query=False,
    uneven=False,
    subgroups=False,
    refusals=False,
)
