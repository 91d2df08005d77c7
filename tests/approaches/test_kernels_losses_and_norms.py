"""Cross entropy, norm and SwiGLU: every backend against its reference, forward and backward."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from approaches.shared.kernels import Backend, linear_cross_entropy, rms_norm, swiglu
from tests.approaches.parity import backends, close, draw, place

# Cross entropy

N, WIDTH, V = 23, 8, 31


def head(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    targets = torch.arange(N) * 7 % V
    targets[[0, 5, N - 1]] = -100
    hidden, weight = (draw(n, WIDTH, seed=i).to(device, dtype).requires_grad_() for i, n in enumerate((N, V)))
    return hidden, weight, targets.to(device)


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("backend", backends("cross_entropy"))
def test_cross_entropy_equals_the_reference(backend: Backend, chunk: int) -> None:
    device, dtype, tolerance = place(backend, training=True)
    hidden, weight, targets = head(device, dtype)
    total, count = linear_cross_entropy(hidden, weight, targets, backend=backend.name, chunk=chunk)
    expected, _ = linear_cross_entropy(hidden, weight, targets, backend="eager")
    assert int(count) == N - 3
    close(total, expected, tolerance)
    got, reference = (torch.autograd.grad(loss / count, (hidden, weight)) for loss in (total, expected))
    for mine, other in zip(got, reference, strict=True):
        close(mine, other, tolerance)
    with torch.no_grad():
        close(linear_cross_entropy(hidden, weight, targets, backend=backend.name)[0], expected, tolerance)


@pytest.mark.parametrize("backend", backends("cross_entropy"))
def test_cross_entropy_closed_forms(backend: Backend) -> None:
    device, dtype, tolerance = place(backend, training=True)
    hidden, weight, targets = head(device, dtype)
    uniform, count = linear_cross_entropy(hidden * 0, weight, targets, backend=backend.name)
    assert uniform.item() == pytest.approx(int(count) * math.log(V), rel=1e-6)
    nothing, count = linear_cross_entropy(hidden, weight, torch.full_like(targets, -100), backend=backend.name)
    assert nothing.item() == 0.0 and int(count) == 0
    assert all((g == 0).all() for g in torch.autograd.grad(nothing, (hidden, weight)))
    some, _ = linear_cross_entropy(hidden, weight, targets, backend=backend.name)
    keep = targets >= 0
    close(some, linear_cross_entropy(hidden[keep], weight, targets[keep], backend="eager")[0], tolerance)


class Largest(TorchDispatchMode):
    """Remembers the most elements that any tensor made inside had."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))])
        return out


def test_chunked_never_holds_all_logits() -> None:
    rows, words, chunk = 64, 1000, 8
    hidden, weight = torch.randn(rows, 4, requires_grad=True), torch.randn(words, 4, requires_grad=True)
    targets = torch.zeros(rows, dtype=torch.int64)
    for backend, most in (("eager", rows * words), ("chunked", chunk * words)):
        with Largest() as mode:
            linear_cross_entropy(hidden, weight, targets, backend=backend, chunk=chunk)[0].backward()
        assert mode.elements == most


def test_chunked_costs_the_reference_flops_and_less_with_a_frozen_head() -> None:
    hidden, weight, targets = head(torch.device("cpu"), torch.float32)
    for frozen, products in ((False, 3), (True, 2)):
        for backend in ("eager", "chunked"):
            with FlopCounterMode(display=False) as counter:
                head_weight = weight.detach() if frozen else weight
                linear_cross_entropy(hidden, head_weight, targets, backend=backend, chunk=7)[0].backward()
            assert counter.get_total_flops() == products * 2 * N * V * WIDTH


@pytest.mark.parametrize("backend", ["eager", "chunked"])
def test_cross_entropy_of_bfloat16_is_summed_in_float32(backend: str) -> None:
    hidden, weight, targets = (x.detach() for x in head(torch.device("cpu"), torch.bfloat16))
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    total, _ = linear_cross_entropy(hidden, weight, targets, backend=backend, chunk=2)
    exact_inputs = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    exact, _ = linear_cross_entropy(*exact_inputs, targets, backend="eager")
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(exact.item(), rel=5e-3)
    pairs = zip(torch.autograd.grad(total, (hidden, weight)), torch.autograd.grad(exact, exact_inputs), strict=True)
    for got, expected in pairs:
        assert got.dtype == torch.bfloat16
        assert float((got.double() - expected).norm() / expected.norm()) < 0.02


def test_chunked_equals_the_reference_under_autocast() -> None:
    hidden, weight, targets = head(torch.device("cpu"), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        totals = [linear_cross_entropy(hidden, weight, targets, backend=b, chunk=5)[0] for b in ("eager", "chunked")]
    assert totals[1].dtype == torch.float32
    assert totals[1].item() == pytest.approx(totals[0].item(), rel=1e-3)
    gradients = [torch.autograd.grad(total, (hidden, weight)) for total in totals]
    for mine, reference in zip(gradients[1], gradients[0], strict=True):
        assert mine.dtype == torch.float32
        assert ((mine - reference).norm() / reference.norm()).item() < 0.01


def test_a_head_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        linear_cross_entropy(torch.zeros(3, 4), torch.zeros(5, 6), torch.zeros(3, dtype=torch.int64), backend="eager")


# Norm and SwiGLU


@pytest.mark.parametrize("shape", [(3, 5, 12), (7, 12), (2, 3, 4, 8)])
@pytest.mark.parametrize("backend", backends("norm"))
def test_norm_equals_the_reference(backend: Backend, shape: tuple[int, ...]) -> None:
    device, dtype, tolerance = place(backend, training=True)
    x = draw(*shape).to(device, dtype).requires_grad_()
    weight = draw(shape[-1], seed=1).to(device, dtype).requires_grad_()
    upstream = draw(*shape, seed=2).to(device, dtype)
    got, expected = (rms_norm(x, weight, 1e-5, backend=way) for way in (backend.name, "eager"))
    close(got, expected, tolerance)
    gradients = [torch.autograd.grad(out, (x, weight), upstream) for out in (got, expected)]
    for mine, other in zip(*gradients, strict=True):
        close(mine, other, tolerance)


@pytest.mark.parametrize("backend", backends("norm"))
def test_norm_closed_forms(backend: Backend) -> None:
    device, dtype, tolerance = place(backend, training=True)
    x, ones = draw(4, 16).to(device, dtype), torch.ones(16, device=device, dtype=dtype)
    out = rms_norm(x, ones, 0.0, backend=backend.name)
    close(out.square().mean(-1), torch.ones(4, device=device, dtype=dtype), tolerance)
    close(rms_norm(100 * x, ones, 0.0, backend=backend.name), out, tolerance)
    assert (rms_norm(x * 0, ones, 1e-5, backend=backend.name) == 0).all()


def test_the_fused_norm_spares_frozen_weights_and_keeps_its_type() -> None:
    x, weight = torch.randn(3, 8, requires_grad=True), torch.ones(8)
    out = rms_norm(x, weight, 1e-5, backend="fused")
    out.sum().backward()
    assert weight.grad is None and x.grad is not None
    for backend in ("eager", "fused"):
        half = rms_norm(x.bfloat16(), weight, 1e-5, backend=backend)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), out, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("backend", backends("swiglu"))
def test_swiglu_equals_the_reference(backend: Backend) -> None:
    device, dtype, tolerance = place(backend, training=True)
    gate, up, upstream = (draw(3, 5, 8, seed=i).to(device, dtype) for i in range(3))
    # inputs of its own each: Liger's backward writes its gradients over them
    pairs = [(gate.clone().requires_grad_(), up.clone().requires_grad_()) for _ in range(2)]
    got = swiglu(*pairs[0], backend=backend.name)
    gate, up = pairs[1]
    expected = gate / (1 + torch.exp(-gate)) * up
    close(got, expected, tolerance)
    gradients = [torch.autograd.grad(out, pair, upstream) for out, pair in zip((got, expected), pairs, strict=True)]
    for mine, other in zip(*gradients, strict=True):
        close(mine, other, tolerance)
