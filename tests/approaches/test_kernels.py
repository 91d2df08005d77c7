"""The table of backends, the choice, and attention: every backend against its reference, forward and backward."""

from __future__ import annotations

import math
import typing

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from approaches.shared.kernels import (
    BACKENDS,
    REFERENCE,
    AttentionMask,
    Backend,
    attention,
    choose,
    reference_attention,
)
from approaches.shared.kernels.choice import IMPLEMENTED, NEEDS_CUDA, OPERATIONS
from bench.config import KernelConfig
from bench.errors import UserError
from tests.approaches.parity import backends, close, draw, place

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # the CPU's only way


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
    with torch.set_grad_enabled(device.type == "cuda"):  # without, FlexAttention leaves CUDA to SDPA
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
