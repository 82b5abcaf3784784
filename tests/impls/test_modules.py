"""The layers: the same attention, options checked when the layer is made."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from attention_gate import impls
from tests.impls.cases import Case, expected, own_tensors
from tests.impls.worlds import results

LAYERS = ("RingDilatedAttentionCollective", "RingDilatedAttentionRobust")

pytestmark = pytest.mark.parametrize("layer", LAYERS)

CASE = Case(11, ((4, 1), (11, 2)), is_causal=True, heads=4, kv_heads=2, scale=0.5)


def run_layer(rank: int, layer: str) -> np.ndarray:
    size = dist.get_world_size()
    query, key, value, _ = own_tensors(CASE, size, rank)
    module = getattr(impls, layer)([4, 11], [1, 2], scale=0.5, sequence_length=11, group=dist.new_group(range(size)))
    return module(query, key, value, is_causal=True).detach().numpy()


def test_a_layer_attends(layer: str) -> None:
    out = np.concatenate(results(3, run_layer, layer), axis=1)
    np.testing.assert_allclose(out, expected(CASE)["out"], rtol=0, atol=1e-12)


def test_a_layer_has_no_state(layer: str) -> None:
    module = getattr(impls, layer)([4], [1])
    assert isinstance(module, nn.Module)
    assert not module.state_dict()
    assert "segment_lengths=(4,), dilation_rates=(1,)" in repr(module)


def test_a_layer_is_not_causal_unless_asked(layer: str) -> None:
    module = getattr(impls, layer)([2], [1])
    query, key, value = torch.zeros(3, 1, 2, 1, 1)
    value[0, 1] = 2.0
    assert module(query, key, value)[0, 0, 0, 0] == 1.0
    assert module(query, key, value, is_causal=True)[0, 0, 0, 0] == 0.0


@pytest.mark.parametrize(
    ("arguments", "options", "kind"),
    [
        (([4], [0]), {}, ValueError),
        (([4], [1.0]), {}, TypeError),
        (([4], [1]), {"scale": "1"}, TypeError),
        (([4], [1]), {"sequence_length": -2}, ValueError),
        (([4], [1]), {"dropout": 0.1}, TypeError),
    ],
)
def test_bad_options_are_refused_when_the_layer_is_made(
    layer: str, arguments: tuple, options: dict, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        getattr(impls, layer)(*arguments, **options)
