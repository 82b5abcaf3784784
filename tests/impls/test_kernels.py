"""Which kernels are chosen and what they are given, without a GPU; and plain products in their place."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch

from attention_gate.impls.fused import cudnn_kernels, flash_kernels, kernels, plain_products


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = property(lambda _: True)  # type: ignore[assignment]


def made(*shape: int) -> Any:
    return torch.randn(shape, dtype=torch.bfloat16).as_subclass(OnGpu)


def given(lse: torch.Tensor, grad_out: torch.Tensor, out: torch.Tensor | None = None) -> tuple[Any, ...]:
    """What the backward pass gives to cuDNN, for the same query, key and value."""
    query = made(2, 4, 16, 8)
    with patch.object(cudnn_kernels, "_CUDNN_BACKWARD", Mock(return_value=(query, query, query))) as cudnn:
        kernels.attend_backward(query, query, query, query if out is None else out, lse, grad_out, False, 1.0)
    (call,) = cudnn.call_args_list
    return call.args


def test_denominators_are_packed() -> None:
    rows_first = torch.randn(2, 16, 4).transpose(1, 2)
    lse = given(rows_first, made(2, 4, 16, 8))[5]
    assert lse.is_contiguous()
    assert torch.equal(lse.squeeze(-1), rows_first)


def test_graphs_are_distinguished_by_how_out_and_the_upstream_gradient_lie() -> None:
    lse, plain, other = torch.randn(2, 4, 16), made(2, 4, 16, 8), made(2, 16, 4, 8).transpose(1, 2)
    lengths = [given(lse, grad_out, out)[11:13] for grad_out in (plain, other) for out in (plain, other)]
    assert len(set(lengths)) == 4
    assert given(lse, plain.clone(), plain.clone())[11:13] == lengths[0]
    for queries, keys in lengths:
        assert -(1 << 63) <= queries < 0  # fits 64 bits, and is nobody's length
        assert keys == 16


@pytest.mark.parametrize("number", [-(2**63), -1, 0, 1, 2**62, 2**63 - 1])
def test_whatever_stands_for_an_arrangement_fits_64_bits_and_is_nobodys_length(number: int) -> None:
    with patch.object(cudnn_kernels, "hash", lambda _: number, create=True):
        assert -(1 << 63) <= cudnn_kernels._arrangement(torch.zeros(1)) < 0


def test_a_captured_pass_takes_kernels_that_were_tried_before_it_at_any_size() -> None:
    """It does not wait for the host, which begins cuDNN's sooner; and to try a kernel would end the capture."""
    with (
        flash_attention(package := Package()),
        patch.object(flash_kernels, "objection", lambda *_: None),
        patch.object(flash_kernels, "_largest_error", lambda *_: 0.0),
        patch.object(flash_kernels, "is_captured") as is_captured,
    ):
        is_captured.return_value = True
        assert taken(SMALL) is cudnn_kernels
        assert taken(LARGE) is cudnn_kernels
        with pytest.raises(RuntimeError, match="has not been tried before this capture"):
            taken(SMALL, "flash-attn-4")
        is_captured.return_value = False
        assert taken(LARGE) is flash_kernels
        assert taken(SMALL) is cudnn_kernels
        is_captured.return_value = True
        assert taken(SMALL) is flash_kernels
        assert taken(SMALL, "cudnn") is cudnn_kernels
    assert package.calls == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"dtype": torch.float32}, "no fused kernel for torch.float32"),
        ({"device": torch.device("cpu")}, "no fused kernel for cpu"),
        ({"head_dim": 136}, "multiples of 8 up to 128, not head_dim 136"),
        ({"head_dim": 0}, "not head_dim 0"),
        ({"head_dim": 128}, None),
        ({"value_dim": 12}, "value_dim 12"),
        ({"value_dim": 136}, "value_dim 136"),
        ({"value_dim": 0}, "value_dim 0"),
        ({"value_dim": 128}, None),
        ({"capability": (7, 5)}, "compute capability 8.0"),
        ({"capability": (8, 0)}, None),
        ({"has_cudnn": False}, "cuDNN's attention needs"),
        ({"avoids": "1"}, "TORCH_CUDNN_SDPA_AVOID_RECOMPILE is set"),
        ({"avoids": "0"}, None),
    ],
)
def test_what_fused_kernels_do_not_take(
    changes: dict[str, Any], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {
        "device": torch.device("cuda", 0),
        "dtype": torch.bfloat16,
        "head_dim": 64,
        "value_dim": 64,
    }
    asked |= {"capability": (9, 0), "has_cudnn": True, "avoids": ""} | changes
    monkeypatch.setenv("TORCH_CUDNN_SDPA_AVOID_RECOMPILE", asked["avoids"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: asked["capability"])
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: asked["has_cudnn"])
    objection = kernels.objection.__wrapped__(*(asked[name] for name in ("device", "dtype", "head_dim", "value_dim")))
    assert (objection is None) == (words is None)
    assert words is None or words in objection


def test_what_cudnn_is_given_and_what_is_taken_from_it() -> None:
    """Its lse has a fourth axis in some versions, and is wanted back in the form in which it came."""
    query, key, value, out = made(2, 4, 16, 8), made(2, 2, 16, 8), made(2, 2, 16, 24), made(2, 4, 16, 24)
    for lse in (torch.randn(2, 4, 16, 1), torch.randn(2, 4, 16)):
        with patch.object(cudnn_kernels, "_CUDNN", Mock(return_value=(out, lse, 1, 2))) as cudnn:
            found, denominators = kernels.attend(query, key, value, True, 0.5)
        assert found is out
        assert denominators.shape == (2, 4, 16)
        assert torch.equal(denominators, lse.view(2, 4, 16))
        (call,) = cudnn.call_args_list
        assert [id(each) for each in call.args[:3]] == [id(query), id(key), id(value)]
        # bias, whether lse is wanted, dropout, whether causal, whether a mask for debugging is wanted
        assert call.args[3:] == (None, True, 0.0, True, False)
        assert call.kwargs == {"scale": 0.5}
        with (
            patch.object(cudnn_kernels, "_CUDNN_BACKWARD", Mock(return_value=(query, key, value))) as backward,
            torch.device("meta"),  # a caller's default device is not that of the tensors
        ):
            assert kernels.attend_backward(query, key, value, out, denominators, out, True, 0.5) == (query, key, value)
        (call,) = backward.call_args_list
        assert call.args[5].shape == lse.shape
        assert torch.equal(call.args[5], lse)
        grad_out, *inputs, result = (id(each) for each in call.args[:5])
        assert (grad_out, inputs, result) == (id(out), [id(query), id(key), id(value)], id(out))
        for seed in call.args[6:8]:
            assert (seed.shape, seed.dtype, seed.device) == ((0,), torch.int64, query.device)
        assert call.args[8:11] == (None, None, None)
        assert call.args[12:] == (16, 0.0, True)
        assert call.kwargs == {"scale": 0.5}


@pytest.mark.parametrize(("keys", "is_causal", "calls"), [
    (64, False, [32, 32]), (192, False, [160, 32]), (64, True, [64]), (128, False, [128]), (72, False, [72]),
])  # fmt: skip
def test_cudnn_is_given_no_keys_that_end_in_the_middle_of_a_tile(keys: int, is_causal: bool, calls: list[int]) -> None:
    """There it takes absent keys for keys of score 0, whose weight exp(-lse) is too large here."""
    queries = keys if is_causal else 40
    sizes = (2, 4, queries, 8), (2, 2, keys, 8), (2, 2, keys, 16), (2, 4, queries, 16)
    query, key, value, grad_out = (torch.randn(size).half() for size in sizes)
    given = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (query * 0 - 6, key + 6, value)]
    out, lse = plain_products.attend(*given, is_causal, 0.5)
    assert lse.max() < -40.0
    seen = []

    def backward(
        grad_out: Any, query: Any, key: Any, value: Any, out: Any, lse: Any, *others: Any, scale: float
    ) -> Any:
        seen.append(key.shape[2])
        is_causal = others[8]
        grads = plain_products.attend_backward(query, key, value, out, lse.squeeze(-1), grad_out, is_causal, scale)
        if not is_causal and key.shape[2] % 128 == 64:
            grads[0][:] = torch.nan
        return grads

    expected = plain_products.attend_backward(*given, out, lse, grad_out, is_causal, 0.5)
    with patch.object(cudnn_kernels, "_CUDNN_BACKWARD", backward):
        found = cudnn_kernels.attend_backward(*given, out, lse, grad_out, is_causal, 0.5)
    assert seen == calls
    for mine, right, like in zip(found, expected, given, strict=True):
        assert mine.dtype == torch.float16
        assert mine.stride() == like.stride() or len(calls) == 1
        torch.testing.assert_close(mine, right, rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_plain_products(dtype: torch.dtype, kv_heads: int, is_causal: bool) -> None:
    """Against autograd through softmax; `out` and `lse` are those of these keys and as many more."""
    rows, scale, exact = 6, 0.7, torch.float64
    query, key, value, grad_out = (
        torch.randn(shape, dtype=exact, generator=torch.Generator().manual_seed(place)).to(dtype)
        for place, shape in enumerate(
            [(2, 4, rows, 3), (2, kv_heads, rows, 3), (2, kv_heads, rows, 5), (2, 4, rows, 5)]
        )
    )
    inputs = [tensor.to(exact, copy=True).requires_grad_() for tensor in (query, key, value)]
    scores, values = products(*inputs, is_causal, scale)
    found, lse = kernels.attend(query, key, value, is_causal, scale)
    accumulated = torch.promote_types(dtype, torch.float32)
    assert (found.dtype, lse.dtype) == (dtype, accumulated)
    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(found.to(exact), scores.softmax(-1) @ values, rtol=close, atol=close)
    torch.testing.assert_close(lse.to(exact), scores.logsumexp(-1), rtol=0, atol=1e-5)

    more_scores, more_values = products(query.to(exact), key.to(exact).flip(2), value.to(exact).neg(), False, scale)
    both = torch.cat([scores, more_scores], -1)
    out = both.softmax(-1) @ torch.cat([values, more_values], 2)
    right = torch.autograd.grad(out, inputs, grad_out.to(exact))
    denominators = both.logsumexp(-1).detach().to(accumulated)
    grads = kernels.attend_backward(query, key, value, out.detach().to(dtype), denominators, grad_out, is_causal, scale)
    for mine, wanted in zip(grads, right, strict=True):
        assert mine.dtype == dtype
        assert mine.shape == wanted.shape
        torch.testing.assert_close(mine.to(exact), wanted, rtol=close, atol=close)


def products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores of each query head, -inf for later keys, and values of as many heads."""
    keys, values = (rows.repeat_interleave(query.shape[1] // rows.shape[1], 1) for rows in (key, value))
    scores = scale * query @ keys.mT
    later = torch.arange(scores.shape[-1]) > torch.arange(scores.shape[-2]).unsqueeze(-1)
    return (scores.masked_fill(later, float("-inf")) if is_causal else scores), values


def test_rows_whose_scores_are_all_minus_infinity_are_zero() -> None:
    query, key, value = torch.ones(1, 1, 2, 1), torch.full((1, 1, 2, 1), float("-inf")), torch.ones(1, 1, 2, 3)
    out, lse = kernels.attend(query, key, value, False, 1.0)
    assert torch.equal(out, torch.zeros_like(out))
    assert lse.isneginf().all()
    grad_value = kernels.attend_backward(query, key, value, out, lse, torch.ones_like(out), False, 1.0)[2]
    assert torch.equal(grad_value, torch.zeros_like(grad_value))


CUDA, BF16 = torch.device("cuda", 0), torch.bfloat16


class Package:
    """Stands in for flash-attn-4: plain products, whose faults can be chosen."""

    def __init__(self, fault: str = "") -> None:
        self.fault, self.calls = fault, 0

    def _flash_attn_fwd(self, *rows: Any, softmax_scale: float, causal: bool, return_lse: bool) -> tuple[Any, ...]:
        assert return_lse
        self.calls += 1
        if self.fault == "raises":
            raise RuntimeError("no kernel image")
        out, lse = plain_products.attend(*(each.transpose(1, 2) for each in rows), causal, softmax_scale)
        if self.fault == "mask at the other end":
            flipped = [each.transpose(1, 2).flip(2) for each in rows]
            out, lse = (each.flip(2) for each in plain_products.attend(*flipped, causal, softmax_scale))
        faults = {
            "zeros": lambda: (out * 0, lse),
            "lse of base 2": lambda: (out, lse / np.log(2.0)),
            "not a number": lambda: (out * float("nan"), lse),
        }
        out, lse = faults.get(self.fault, lambda: (out, lse))()
        return out.transpose(1, 2), lse, None, None, None

    def _flash_attn_bwd(self, *given: Any, softmax_scale: float, causal: bool) -> tuple[Any, ...]:
        self.calls += 1
        query, key, value, out, grad_out = (each.transpose(1, 2) for each in given[:5])
        lse = given[5]
        if self.fault == "own lse":
            out, lse = plain_products.attend(query, key, value, causal, softmax_scale)
        if self.fault == "own out":
            out, _ = plain_products.attend(query, key, value, causal, softmax_scale)
        grads = plain_products.attend_backward(query, key, value, out, lse, grad_out, causal, softmax_scale)
        if self.fault == "a gradient not a number":
            grads = (*grads[:2], grads[2] * float("nan"))
        if self.fault == "gradients of one head of a group":
            times = query.shape[1] // key.shape[1]
            grads = (grads[0], grads[1] / times, grads[2])
        return tuple(each.transpose(1, 2) for each in grads)


@contextmanager
def flash_attention(package: Package | None, capability: tuple[int, int] = (9, 0)) -> Iterator[None]:
    """Let flash-attn-4 be installed, or not; nothing is kept of what was found out before."""
    flash_kernels.objection.cache_clear()
    flash_kernels._faults.clear()
    with (
        patch.object(flash_kernels, "is_installed", lambda: package is not None),
        patch.object(flash_kernels, "package", lambda: package),
        patch.object(flash_kernels, "_version", lambda: "4"),
        patch("torch.cuda.get_device_capability", lambda _: capability),
    ):
        yield
    flash_kernels.objection.cache_clear()
    flash_kernels._faults.clear()


FAULTS = ("raises", "zeros", "not a number", "a gradient not a number", "lse of base 2", "own lse", "own out")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("fault", ["", *FAULTS, "mask at the other end", "gradients of one head of a group"])
def test_a_kernel_is_used_only_if_it_computes_as_plain_products_do(
    fault: str, is_causal: bool, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    query, key, value = (torch.empty(1, heads, 1, dim, dtype=BF16) for heads, dim in ((times, 16), (1, 16), (1, 8)))
    with (
        flash_attention(package := Package(fault)),
        patch.object(flash_kernels, "objection", lambda *_: None),
        caplog.at_level("INFO"),
    ):
        found = [flash_kernels.refusal(query, key, value, is_causal) for _ in range(2)]
    assert found[0] == found[1]
    assert package.calls <= 2, "it is tried once"
    is_wrong = fault in FAULTS or (fault.startswith("mask") and is_causal) or (fault.startswith("grad") and times > 1)
    assert (found[0] is None) != is_wrong, found[0]
    (record,) = caplog.records
    assert record.levelname == ("WARNING" if is_wrong else "INFO")
    assert (record.getMessage() == f"cuDNN's kernels are used: {found[0]}") == is_wrong


LARGE, SMALL = (1, 16, 32768, 128), (1, 16, 64, 128)


def taken(shape: tuple[int, ...], backend: str = "auto", is_backward: bool = False, **changes: Any) -> Any:
    given = torch.empty(shape, dtype=changes.pop("dtype", BF16), device="meta").as_subclass(OnGpu)
    return kernels._module(given, given, given, True, backend, is_backward)


def test_the_fastest_kernel_is_taken_that_is_there_and_right() -> None:
    with flash_attention(Package()), patch.object(flash_kernels, "refusal", lambda *_: None):
        assert taken(LARGE) is flash_kernels
        assert taken(SMALL) is cudnn_kernels
        assert taken(SMALL, "flash-attn-4") is flash_kernels
        assert taken(LARGE, "cudnn") is cudnn_kernels
        assert taken(LARGE, dtype=torch.float32) is plain_products
    with flash_attention(None):
        assert taken(LARGE) is cudnn_kernels
        with pytest.raises(RuntimeError, match="flash-attn-4 is chosen and does not serve: flash-attn-4 is not inst"):
            taken(LARGE, "flash-attn-4")
    with flash_attention(Package()), patch.object(flash_kernels, "refusal", lambda *_: "wrong here"):
        assert taken(LARGE) is cudnn_kernels
        with pytest.raises(RuntimeError, match="wrong here"):
            taken(LARGE, "flash-attn-4")


@pytest.mark.parametrize("is_backward", [False, True])
def test_from_which_size_on_flash_attention_is_faster(is_backward: bool) -> None:
    """Products of queries and keys, and of probabilities and values, two operations each, half as many if causal."""
    name = f"least_operations_{'backward' if is_backward else 'forward'}"
    operations = 2 * 3 * 10 * 20 * (8 + 24)
    query, key, value = torch.empty(1, 3, 10, 8), torch.empty(1, 3, 20, 8), torch.empty(1, 3, 20, 24)
    for least, is_causal, is_worth_it in (
        (operations, False, True),
        (operations + 1, False, False),
        (operations // 2, True, True),
        (operations // 2 + 1, True, False),
    ):
        with patch.object(flash_kernels, name, least):
            assert flash_kernels.is_worthwhile(query, key, value, is_causal, is_backward) == is_worth_it


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"is_installed": False}, "not installed"),
        ({"dtype": torch.float32}, "no kernel for torch.float32"),
        ({"device": torch.device("cpu")}, "on cpu"),
        ({"capability": (8, 0)}, "capability 9.0 to 11"),
        ({"capability": (12, 0)}, "capability 9.0 to 11"),
        ({"capability": (10, 0)}, None),
        ({"head_dim": 136, "value_dim": 136}, "not 136 and 136"),
        ({"head_dim": 24, "value_dim": 24}, "not 24 and 24"),
        ({"head_dim": 36, "value_dim": 36}, "not 36 and 36"),
        ({"value_dim": 32}, "not 64 and 32"),
        ({"head_dim": 32, "value_dim": 32}, None),
        ({"head_dim": 128, "value_dim": 128}, None),
    ],
)
def test_what_flash_attention_does_not_take(changes: dict[str, Any], words: str | None) -> None:
    asked = {"is_installed": True, "capability": (9, 0), "device": CUDA, "dtype": BF16, "head_dim": 64, "value_dim": 64}
    asked |= changes
    with flash_attention(Package() if asked["is_installed"] else None, asked["capability"]):
        given = [asked[name] for name in ("device", "dtype", "head_dim", "value_dim")]
        objection = kernels.backend_objection("flash-attn-4", *given)
        name, reason = kernels.backend_for("auto", *given)
    assert (objection is None) == (words is None)
    assert words is None or words in objection  # type: ignore[operator]
    if asked["device"] == CUDA:
        assert name == ("flash-attn-4" if words is None else "cudnn")
        assert words is None or words in reason


def test_whose_kernels_a_call_runs_on() -> None:
    with flash_attention(Package()):
        for backend in ("cudnn", "flash-attn-4"):
            assert kernels.backend_for(backend, CUDA, BF16, 64, 64) == (backend, "it is chosen")
    assert kernels.backend_for("auto", torch.device("cpu"), BF16, 64, 64)[0] == "plain products"


def test_without_the_package_nothing_is_imported() -> None:
    for cached in (flash_kernels._version, flash_kernels.objection):
        cached.cache_clear()
    with patch("importlib.util.find_spec", return_value=None), patch.object(flash_kernels, "package") as package:
        assert not flash_kernels.is_installed()
        assert flash_kernels.objection(CUDA, BF16, 64, 64) == "flash-attn-4 is not installed"
        package.assert_not_called()
    for cached in (flash_kernels._version, flash_kernels.objection):
        cached.cache_clear()


def test_what_the_compiler_says_of_each_kernel_is_not_passed_on() -> None:
    flash_kernels.package.cache_clear()
    with warnings.catch_warnings(record=True) as seen, patch("importlib.import_module", return_value="package"):
        warnings.simplefilter("always")
        assert flash_kernels.package() == "package"
        warnings.warn("Argument aux_data (position 17) cannot be converted to a JitArgument for f", stacklevel=1)
        warnings.warn("another", stacklevel=1)
    flash_kernels.package.cache_clear()
    assert [str(each.message) for each in seen] == ["another"]
