"""Every backend of every operation against its reference, forward and backward, over the table that `doctor` prints."""

from __future__ import annotations

import math
import typing

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from approaches.shared.kernels import (
    BACKENDS,
    REFERENCE,
    AttentionMask,
    Backend,
    attention,
    choose,
    linear_cross_entropy,
    reference_attention,
    rms_norm,
    swiglu,
)
from approaches.shared.kernels.choice import IMPLEMENTED, NEEDS_CUDA, OPERATIONS
from bench.config import KernelConfig
from bench.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # the CPU's only way


def backends(operation: str) -> list[object]:
    # The first use of torch.compile takes the compiler's ten seconds.
    return [
        pytest.param(backend, id=backend.name, marks=[pytest.mark.slow] if backend.name == "compiled" else [])
        for backend in BACKENDS
        if backend.operation == operation
    ]


def place(backend: Backend, *, training: bool) -> tuple[torch.device, torch.dtype, float]:
    """Where to compare, in which type and how closely: CUDA where there is one, else the CPU in float64."""
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda" if on_cuda else "cpu")
    if obstacle := backend.obstacle(device, training=training):
        pytest.skip(obstacle)
    return device, torch.float32 if on_cuda else torch.float64, 3e-3 if on_cuda else 1e-12


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


# The table


def test_the_table_lists_exactly_what_is_implemented() -> None:
    listed = [(backend.operation, backend.name) for backend in BACKENDS]
    assert len(set(listed)) == len(listed)
    assert set(listed) == IMPLEMENTED


def test_every_operation_of_the_table_has_parity_tests_over_the_table() -> None:
    tested = {"attention", "cross_entropy", "norm", "swiglu"}
    assert {backend.operation for backend in BACKENDS} == tested == set(OPERATIONS)


def test_the_config_offers_exactly_the_table() -> None:
    hints = typing.get_type_hints(KernelConfig)
    for operation in OPERATIONS:
        offered = set(typing.get_args(hints[operation]))
        assert offered == {"auto"} | {backend.name for backend in BACKENDS if backend.operation == operation}


def test_references_run_everywhere() -> None:
    for backend in BACKENDS:
        if backend.name == "eager":
            assert not backend.obstacle("cpu") and not backend.obstacle("cuda") and not backend.obstacle("meta")


# Attention

B, H, G, T, S, D = 2, 6, 2, 5, 9, 16


def qkv(device: torch.device, dtype: torch.dtype, queries: int = T, keys: int = S) -> list[Tensor]:
    # FlexAttention on the CPU refuses leaves that want a gradient even where none is recorded.
    shapes = ((B, H, queries, D), (B, G, keys, D), (B, G, keys, D))
    return [
        draw(*shape, seed=i).to(device, dtype).requires_grad_(torch.is_grad_enabled()) for i, shape in enumerate(shapes)
    ]


def random_mask(device: torch.device, *, empty_row: bool) -> AttentionMask:
    allowed = draw(B, T, S, seed=7) > 0
    allowed[:, :, 0] = True
    if empty_row:
        allowed[1, 2] = False
    return AttentionMask.from_dense(allowed.to(device))


CASES = ["plain", "shared_mask", "mask", "empty_row", "causal_cache", "causal_square", "one_query"]


def case(name: str, device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, typing.Any]]:
    """Inputs and keywords of one way to call `attention`."""
    if name == "causal_square":
        return qkv(device, dtype, T, T), {"causal": True}
    if name == "one_query":
        return qkv(device, dtype, 1, S), {"causal": True}
    tensors = qkv(device, dtype)
    if name == "shared_mask":
        return tensors, {"mask": AttentionMask.from_dense((draw(T, S) > -0.5).to(device))}
    if name in ("mask", "empty_row"):
        return tensors, {"mask": random_mask(device, empty_row=name == "empty_row")}
    return tensors, {"causal": True} if name == "causal_cache" else {}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", backends("attention"))
def test_attention_forward_equals_the_reference(backend: Backend, name: str) -> None:
    device, dtype, tolerance = place(backend, training=False)
    with torch.no_grad():
        tensors, keywords = case(name, device, dtype)
        got = attention(*tensors, **keywords, backend=backend.name)
        close(got, attention(*tensors, **keywords, backend="eager"), tolerance)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", backends("attention"))
def test_attention_backward_equals_the_reference(backend: Backend, name: str) -> None:
    device, dtype, tolerance = place(backend, training=True)
    tensors, keywords = case(name, device, dtype)
    upstream = draw(*tensors[0].shape, seed=9).to(device, dtype)
    got, expected = (
        torch.autograd.grad(attention(*tensors, **keywords, backend=way), tensors, upstream)
        for way in (backend.name, "eager")
    )
    for mine, reference in zip(got, expected, strict=True):
        close(mine, reference, tolerance)


def test_the_reference_is_the_definition() -> None:
    """One query, one head at a time, in plain arithmetic."""
    q, k, v = (x.detach() for x in qkv(torch.device("cpu"), torch.float64))
    mask = random_mask(torch.device("cpu"), empty_row=True)
    got = attention(q, k, v, mask=mask, backend="eager")
    for b, h, i in [(0, 0, 0), (0, 5, 4), (1, 2, 1), (1, 3, 3), (1, 4, 2)]:
        weights = [
            math.exp(float(q[b, h, i] @ k[b, h // 3, j]) / math.sqrt(D)) if mask.dense[b, 0, i, j] else 0.0
            for j in range(S)
        ]
        total = sum(weights) or 1.0
        expected = sum((w / total * v[b, h // 3, j] for j, w in enumerate(weights)), torch.zeros(D, dtype=v.dtype))
        close(got[b, h, i], expected, 1e-12)


@pytest.mark.parametrize("backend", backends("attention"))
def test_a_query_that_may_attend_to_nothing_gets_zeros(backend: Backend) -> None:
    device, dtype, _ = place(backend, training=False)
    with torch.no_grad():
        out = attention(*qkv(device, dtype), mask=random_mask(device, empty_row=True), backend=backend.name)
    assert torch.isfinite(out).all()
    assert (out[1, :, 2] == 0).all() and (out[0] != 0).all()


@pytest.mark.parametrize("backend", backends("attention"))
def test_an_empty_row_sends_no_gradient_and_no_nan(backend: Backend) -> None:
    device, dtype, _ = place(backend, training=True)
    tensors = qkv(device, dtype)
    out = attention(*tensors, mask=random_mask(device, empty_row=True), backend=backend.name)
    gradients = torch.autograd.grad(out, tensors, torch.ones_like(out))
    assert all(torch.isfinite(g).all() for g in gradients)
    assert (gradients[0][1, :, 2] == 0).all()
    only_it = torch.zeros_like(out)
    only_it[1, :, 2] = 1.0
    out = attention(*tensors, mask=random_mask(device, empty_row=True), backend=backend.name)
    assert all((g == 0).all() for g in torch.autograd.grad(out, tensors, only_it))


@pytest.mark.parametrize("backend", backends("attention"))
def test_causal_attention_with_a_cache_is_the_tail_of_the_whole(backend: Backend) -> None:
    device, dtype, tolerance = place(backend, training=False)
    with torch.no_grad():
        q, k, v = qkv(device, dtype, S, S)
        whole = attention(q, k, v, causal=True, backend=backend.name)
        for new in (1, 3):
            close(attention(q[:, :, -new:], k, v, causal=True, backend=backend.name), whole[:, :, -new:], tolerance)


@pytest.mark.parametrize("backend", backends("attention"))
def test_no_keys_at_all_give_zeros(backend: Backend) -> None:
    device, dtype, _ = place(backend, training=False)
    with torch.no_grad():
        assert (attention(*qkv(device, dtype, T, 0), backend=backend.name) == 0).all()


@pytest.mark.parametrize("backend", backends("attention"))
def test_a_rule_and_its_dense_form_are_one_mask(backend: Backend) -> None:
    device, dtype, tolerance = place(backend, training=False)
    lengths = torch.tensor([4, 9], device=device)

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q + 4) & (k < lengths[b])

    mask = AttentionMask(rule, batch=B, queries=T, keys=S, device=device)
    expected = torch.tensor([[[k <= q + 4 and k < n for k in range(S)] for q in range(T)] for n in (4, 9)])
    assert torch.equal(mask.dense[:, 0].cpu(), expected)
    assert mask.dense is mask.dense and mask.block is mask.block
    with torch.no_grad():
        tensors = qkv(device, dtype)
        outs = [
            attention(*tensors, mask=m, backend=backend.name)
            for m in (mask, AttentionMask.from_dense(expected.to(device)), AttentionMask.from_dense(mask.dense))
        ]
    close(outs[0], outs[1], tolerance)
    close(outs[0], outs[2], tolerance)


def test_a_mask_moves_with_its_values() -> None:
    mask = random_mask(torch.device("cpu"), empty_row=True)
    assert mask.to("cpu") is mask
    moved = mask.to("meta")
    assert moved.device.type == "meta" and moved.dense.shape == mask.dense.shape and moved.batch == mask.batch


def test_shapes_that_do_not_fit_are_refused() -> None:
    q, k, v = qkv(torch.device("cpu"), torch.float64)
    mask = random_mask(torch.device("cpu"), empty_row=False)
    for tensors, keywords, said in [
        ((q[:, :5], k, v), {}, "shapes don't fit"),
        ((q[:1], k, v), {}, "shapes don't fit"),
        ((q, k[:, :, :4], v[:, :, :4]), {"causal": True}, "last positions"),
        ((q, k, v), {"causal": True, "mask": mask}, "not both"),
        ((q[:, :, :4], k, v), {"mask": mask}, "a mask of"),
    ]:
        with pytest.raises(ValueError, match=said):
            attention(*tensors, **keywords, backend="eager")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a dense mask is bool"):
        AttentionMask.from_dense(torch.ones(3, 3))


def test_flops_are_counted_on_the_reference_path() -> None:
    tensors = [x.detach() for x in qkv(torch.device("cpu"), torch.float32)]
    with FlopCounterMode(display=False) as counter, reference_attention():
        attention(*tensors, causal=True, backend="sdpa")
    assert counter.get_total_flops() == 4 * B * H * T * S * D
    with FlopCounterMode(display=False) as counter:
        attention(*tensors, causal=True, backend="sdpa")
    assert counter.get_total_flops() != 4 * B * H * T * S * D, "torch counts SDPA now: reference_attention can go"


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
    moved, _ = linear_cross_entropy(hidden, weight, targets.where(targets >= 0, 3), ignore=3, backend=backend.name)
    keep = (targets >= 0) & (targets != 3)
    close(moved, linear_cross_entropy(hidden[keep], weight, targets[keep], backend="eager")[0], tolerance)


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
    half = rms_norm(x.bfloat16(), weight.bfloat16(), 1e-5, backend="fused")
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), out, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("backend", backends("swiglu"))
def test_swiglu_equals_the_reference(backend: Backend) -> None:
    device, dtype, tolerance = place(backend, training=True)
    gate, up, upstream = (draw(3, 5, 8, seed=i).to(device, dtype) for i in range(3))
    gate.requires_grad_(), up.requires_grad_()
    got = swiglu(gate, up, backend=backend.name)
    expected = gate / (1 + torch.exp(-gate)) * up
    close(got, expected, tolerance)
    gradients = [torch.autograd.grad(out, (gate, up), upstream) for out in (got, expected)]
    for mine, other in zip(*gradients, strict=True):
        close(mine, other, tolerance)


# The choice


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_takes_what_runs(device: str, training: bool) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip(NEEDS_CUDA)
    kernels = choose(device, training=training)
    table = {(backend.operation, backend.name): backend for backend in BACKENDS}
    for operation in OPERATIONS:
        assert table[operation, getattr(kernels, operation)].obstacle(device, training=training) == ""
    record = kernels.record()
    assert set(record) == {*OPERATIONS, "reasons"}
    assert all(dict(kernels.reasons)[operation] for operation in OPERATIONS)


def test_a_named_kernel_is_taken_or_refused_in_one_sentence() -> None:
    named = choose("cpu", attention="eager", cross_entropy="eager", norm="eager", swiglu="eager")
    assert {**named.record(), "reasons": {}} == REFERENCE.record()
    with pytest.raises(UserError, match="attention kernel 'flex' can't run on cpu: FlexAttention's backward raises"):
        choose("cpu", attention="flex")
    assert choose("cpu", attention="flex", training=False).attention == "flex"
    with pytest.raises(UserError, match="norm kernel 'liger' can't run on cpu: needs a CUDA device"):
        choose("cpu", norm="liger")
    with pytest.raises(UserError, match="did you mean 'chunked'"):
        choose("cpu", cross_entropy="chunk")


def test_flex_really_cannot_train_on_the_cpu() -> None:
    """When this fails, torch has learnt it, and the obstacle can go."""
    tensors = qkv(torch.device("cpu"), torch.float32)
    mask = random_mask(torch.device("cpu"), empty_row=False)
    with pytest.raises(Exception, match=r"(?i)backward|grad|not implemented|not supported"):
        attention(*tensors, mask=mask, backend="flex").sum().backward()
