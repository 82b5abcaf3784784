import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import all_gather_tensor_autograd
from torch.nn.functional import scaled_dot_product_attention

from attention_gate import Target


def attention(query, key, value, *, scale=None, **_):
    rows = torch.cat((key, value), dim=-1).transpose(0, 1).contiguous()
    kv = all_gather_tensor_autograd(rows, 0, dist.group.WORLD).transpose(0, 1)
    heads_first = (x.transpose(1, 2) for x in (query, *kv.split((key.shape[-1], value.shape[-1]), dim=-1)))
    return scaled_dot_product_attention(*heads_first, scale=scale).transpose(1, 2)


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
