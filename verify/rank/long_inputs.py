"""Inputs of a long sequence on one rank: drawn in pieces, changed as a law asks, and compared where they are."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from attention_gate.verify.case.data import Name, rows
from attention_gate.verify.rank.attended import INPUTS, Call, Inputs
from attention_gate.verify.rank.tensors import with_strides

#: Rows are drawn so many at a time: while a row is drawn it takes several times its size.
PIECE = 1 << 14


class LongInputs(Inputs):
    """The inputs of one call, which hold no more than their tensors."""

    def __init__(self, call: Call) -> None:
        super().__init__(call, 0)
        self._before = []  # whether a call modifies its inputs is judged at short lengths
        self._drawn_upstream: Tensor | None = None

    @property
    def own(self) -> np.ndarray:
        """The positions of this rank's rows, of queries as of keys."""
        return self.positions.keys

    def change(self, name: Name, values: Tensor) -> None:
        """Put other values into an input."""
        with torch.no_grad():
            self.tensors[INPUTS.index(name)].copy_(values)

    def called(self) -> tuple[Tensor, Tensor | None]:
        """Call the target: out, and lse if that was asked for; TypeError and ValueError say what came instead."""
        self.forward()
        wanted = (self.case.batch, len(self.own), self.case.heads, self.case.value_dim)
        for name, tensor, shape in (("out", self.out, wanted), ("lse", self.lse, (wanted[0], wanted[2], wanted[1]))):
            if name == "lse" and not self.call.options.get("lse"):
                continue
            if not isinstance(tensor, Tensor):
                raise TypeError(f"the target returned {self.result.facts.get(name, 'nothing')} for {name}")
            if tuple(tensor.shape) != shape:
                raise ValueError(f"the target returned {name} of shape {tuple(tensor.shape)}; it must be {shape}")
        return self.out, self.lse

    def drawn_upstream(self) -> Tensor:
        """This rank's rows of the upstream gradient."""
        if self._drawn_upstream is None:
            self._drawn_upstream = self._drawn("upstream")
        return self._drawn_upstream

    def gradients(self, upstream: Tensor) -> tuple[Tensor, ...]:
        """dQ, dK and dV of the call that was made last; ValueError if one is missing."""
        found = torch.autograd.grad(self.out, self.tensors, upstream.to(self.out.dtype), allow_unused=True)
        if missing := [name for name, grad in zip(INPUTS, found, strict=True) if grad is None]:
            raise ValueError(f"no gradient arrived at {', '.join(missing)}")
        return tuple(grad for grad in found if grad is not None)

    def _input(self, name: Name) -> Tensor:
        return with_strides(self._drawn(name), self.case.buffers).requires_grad_(bool(self.case.gradients))

    def _drawn(self, name: Name) -> Tensor:
        """The rows of a tensor, drawn piece by piece, by several threads where the ranks compute elsewhere."""
        case, dtype = self.case, getattr(torch, self.case.dtype)
        heads = case.kv_heads if name in ("key", "value") else case.heads
        dim = case.value_dim if name in ("value", "upstream") else case.head_dim
        found = torch.empty((case.batch, len(self.own), heads, dim), dtype=dtype, device=self.call.device)

        def draw(start: int) -> None:
            piece = torch.from_numpy(rows(case, name, self.own[start : start + PIECE]))
            found[:, start : start + PIECE] = piece.to(dtype).to(found.device)

        starts = range(0, len(self.own), PIECE)
        threads = 1 if found.device.type == "cpu" else max(1, (os.cpu_count() or 1) // case.world_size)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(draw, starts))
        return found


def sums(tensor: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the rows of a tensor and of its squares: (batch, heads, dim) each, float64."""
    found = torch.zeros((2, tensor.shape[0], *tensor.shape[2:]), dtype=torch.float64, device=tensor.device)
    for piece in tensor.detach().split(PIECE, dim=1):
        found[0] += piece.double().sum(dim=1)
        found[1] += piece.double().square().sum(dim=1)
    total, squares = found.cpu().numpy()
    return total, squares


def products(one: Tensor, other: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the rows of one . other, and of (|one| |other|)^2: (batch, heads) each, float64."""
    found = torch.zeros((2, one.shape[0], one.shape[2]), dtype=torch.float64, device=one.device)
    for a, b in zip(one.detach().split(PIECE, dim=1), other.detach().split(PIECE, dim=1), strict=True):
        a, b = a.double(), b.double()
        found[0] += (a * b).sum(dim=(1, 3))
        found[1] += (a.square().sum(dim=3) * b.square().sum(dim=3)).sum(dim=1)
    inner, squares = found.cpu().numpy()
    return inner, squares


Difference = tuple[float, float, int | None]
"""How far two tensors lie apart: the largest |one - other|, infinite where there is a NaN; the largest |other|; and the
position of the first row that is further off than the tolerance times that, if there is one."""


def difference(one: Tensor, other: Tensor, positions: np.ndarray, tolerance: float) -> Difference:
    """Compare two tensors of the same shape (batch, rows, heads, dim) piece by piece."""
    by_row = [np.zeros(0)]
    size = 0.0
    for a, b in zip(one.detach().split(PIECE, dim=1), other.detach().split(PIECE, dim=1), strict=True):
        if a.numel():
            far = (a.double() - b.double()).abs().amax(dim=(0, 2, 3))
            by_row.append(torch.nan_to_num(far, nan=float("inf")).cpu().numpy())
            size = max(size, float(torch.nan_to_num(b.double()).abs().max()))
    rows = np.concatenate(by_row)
    beyond = positions[np.flatnonzero(rows > tolerance * size)] if len(rows) else rows
    first = int(beyond.min()) if len(beyond) else None
    return float(rows.max(initial=0.0)), size, first
