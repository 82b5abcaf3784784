"""Attentions that return what they should not."""

import torch

from attention_gate.impls.robust import attend as right


def nothing(query, key, value, **options):
    right(query, key, value, **options)


def numpy_array(query, key, value, **options):
    return right(query, key, value, **options).detach().numpy()


def a_tuple(query, key, value, **options):
    return right(query, key, value, **options), None


def another_shape(query, key, value, **options):
    return right(query, key, value, **options).unsqueeze(0)


def another_dtype(query, key, value, **options):
    return right(query, key, value, **options).float()


def another_device(query, key, value, **options):
    return right(query, key, value, **options).to("meta")


def a_sparse_tensor(query, key, value, **options):
    return right(query, key, value, **options).to_sparse()


def a_huge_tensor(query, key, value, **options):
    return right(query, key, value, **options).new_zeros(1).expand(1 << 40)


def nan(query, key, value, **options):
    return right(query, key, value, **options) * float("nan")


def its_input(query, key, value, **options):
    return query


def a_view_of_its_input(query, key, value, **options):
    out = right(query, key, value, **options)
    if out.shape == query.shape:
        out.data = query.data
    return out


class _Mute:
    def __repr__(self):
        raise ValueError("no words")


def what_has_no_repr(query, key, value, **options):
    return _Mute()


def strides_of_its_own(query, key, value, **options):
    """Right: a result may have any strides."""
    out = right(query, key, value, **options)
    return torch.stack([out, out], dim=-1)[..., 0]
