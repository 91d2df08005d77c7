"""Scaled dot-product attention with grouped queries, three ways behind one call.

Shapes: B batch, H query heads, G key/value heads (G divides H), T queries, S keys, D head width.

torch's FlopCounterMode counts 0 for SDPA on the CPU and raises on FlexAttention (torch 2.13), so FLOPs are counted
inside `reference_attention()`, which forces every call to the eager path: plain matrix products, all of them counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(b, h, q, k) index tensors -> bool tensor, True where query q of picture or document b may attend to key k. Written
in tensor operations alone (& and |, no `if`), so that it broadcasts and also compiles; it must not depend on h."""


class AttentionMask:
    """Who may attend to whom. Built once for a batch layout and used by every layer; each form is made on first use.

    rule: see `Rule`; tensors that it closes over live on `device`.
    batch: number of different masks, or None where one serves the whole batch.
    queries, keys: T and S.
    may_be_empty: False promises that every query may attend to something, and spares the looking.
    """

    def __init__(
        self,
        rule: Rule,
        *,
        batch: int | None,
        queries: int,
        keys: int,
        device: torch.device | str = "cpu",
        may_be_empty: bool = True,
    ) -> None:
        self.rule = rule
        self.batch = batch
        self.queries = queries
        self.keys = keys
        self.device = torch.device(device)
        self.may_be_empty = may_be_empty
        # Plain attributes, not cached_property: its lock breaks torch.compile's graphs.
        self._dense: Tensor | None = None
        self._block: Any = None
        self._open: tuple[Tensor, Tensor | None] | None = None
        self._bias: Tensor | None = None

    @classmethod
    def from_dense(cls, mask: Tensor, *, may_be_empty: bool = True) -> AttentionMask:
        """From a bool tensor (T S), (B T S) or (B 1 T S), True = may attend; a leading 1 serves any batch."""
        if mask.dtype != torch.bool or mask.ndim not in (2, 3, 4) or (mask.ndim == 4 and mask.shape[1] != 1):
            raise ValueError(f"a dense mask is bool (T S), (B T S) or (B 1 T S), not {mask.dtype} {tuple(mask.shape)}")
        mask = mask.reshape(mask.shape[0] if mask.ndim > 2 else 1, 1, mask.shape[-2], mask.shape[-1])
        one_for_all = mask.shape[0] == 1

        def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            # With one mask for all, b still counts over the batch inside FlexAttention's kernel.
            return mask[b * 0 if one_for_all else b, h * 0, q, k]

        batch = None if one_for_all else mask.shape[0]
        queries, keys = mask.shape[2:]
        made = cls(rule, batch=batch, queries=queries, keys=keys, device=mask.device, may_be_empty=may_be_empty)
        made._dense = mask
        return made

    @classmethod
    def over(cls, valid: Tensor, queries: int, *, may_be_empty: bool = True) -> AttentionMask:
        """Each of T queries may attend to the keys that are valid, B S bool. may_be_empty: a row may have none."""
        return cls.from_dense(valid[:, None, :].expand(-1, queries, -1), may_be_empty=may_be_empty)

    @property
    def dense(self) -> Tensor:
        """(batch or 1) 1 T S, bool, True = may attend."""

        def axis(size: int, dim: int) -> Tensor:
            shape = [1, 1, 1, 1]
            shape[dim] = size
            return torch.arange(size, device=self.device).view(shape)

        if self._dense is None:
            batch = self.batch or 1
            allowed = self.rule(axis(batch, 0), axis(1, 1), axis(self.queries, 2), axis(self.keys, 3))
            self._dense = allowed.expand(batch, 1, self.queries, self.keys).contiguous()
        return self._dense

    @property
    def block(self) -> Any:
        """The same as torch's BlockMask for FlexAttention."""
        if self._block is None:
            from torch.nn.attention.flex_attention import create_block_mask

            self._block = create_block_mask(self.rule, self.batch, None, self.queries, self.keys, str(self.device))
        return self._block

    @property
    def open(self) -> tuple[Tensor, Tensor | None]:
        """`dense` with its empty rows opened, so that no softmax is over nothing, and (batch or 1) 1 T 1, True for the
        rows that were empty, whose output is to be set to zero. On the CPU the second is None if there are none;
        elsewhere looking at the values would wait for the device."""
        if self._open is None:
            empty = ~self.dense.any(-1, keepdim=True) if self.may_be_empty else None
            if empty is not None and self.device.type == "cpu" and not bool(empty.any()):
                empty = None
            self._open = (self.dense if empty is None else self.dense | empty, empty)
        return self._open

    def bias(self, dtype: torch.dtype) -> Tensor:
        """The open mask as what is added to scores, 0 or -inf, in rows that begin where CUDA's kernels can read them:
        SDPA would make both in every layer."""
        if self._bias is None or self._bias.dtype != dtype:
            allowed = self.open[0]
            aligned = allowed.new_zeros((*allowed.shape[:-1], -(-self.keys // 8) * 8), dtype=dtype)
            self._bias = aligned[..., : self.keys].masked_fill_(~allowed, -torch.inf)
        return self._bias

    def build(self, backend: str) -> AttentionMask:
        """Make, now, the form that a backend reads, and return self: compiled layers then only read it."""
        if backend == "flex" and _flexes(self.device):
            _ = self.block
        elif self.device.type == "cuda":
            _ = self.bias(_arithmetic(self.device))
        else:
            _ = self.open
        return self


@lru_cache(maxsize=16)
def causal_mask(queries: int, keys: int, device: torch.device) -> AttentionMask:
    """T queries that are the last T of S positions, each seeing itself and what comes before."""
    offset = keys - queries

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k <= q + offset

    return AttentionMask(rule, batch=None, queries=queries, keys=keys, device=device, may_be_empty=False)


def _eager(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None, causal: bool) -> Tensor:
    """The reference: softmax in float32 (float64 for float64), plain matrix products."""
    (batch, heads, queries, width), (_, groups, keys, _) = q.shape, k.shape
    if causal:
        mask = causal_mask(queries, keys, q.device)
    # Heads that share a key are stacked as further rows: a matrix product without copying the keys.
    rows: Tensor = (q * width**-0.5).reshape(batch, groups, heads // groups * queries, width)
    scores = (rows @ k.transpose(-1, -2)).view(batch, heads, queries, keys)
    scores = scores.to(torch.promote_types(q.dtype, torch.float32))
    if mask is not None:
        scores = scores.masked_fill(~mask.dense, torch.finfo(scores.dtype).min)
    share = scores.softmax(-1)
    if mask is not None and (empty := mask.open[1]) is not None:
        share = share.masked_fill(empty, 0.0)
    mixed = share.to(v.dtype).view(batch, groups, heads // groups * queries, keys) @ v
    return mixed.view(batch, heads, queries, v.shape[-1])


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None, causal: bool) -> Tensor:
    """PyTorch's scaled_dot_product_attention."""
    queries, keys = q.shape[2], k.shape[2]
    if causal and queries != keys:
        # is_causal aligns the first query with the first key; with a cache the last ones belong together.
        mask, causal = (causal_mask(queries, keys, q.device) if queries > 1 else None), False
    grouped = k.shape[1] != q.shape[1]
    if grouped and q.is_cuda and (mask is not None or _arithmetic(q.device, q.dtype) == torch.float32):
        # CUDA's kernels for masks and for float32 know no groups; left to enable_gqa, torch takes its slow path.
        repeats = q.shape[1] // k.shape[1]
        k, v, grouped = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1), False
    allowed, empty = (None, None) if mask is None else mask.open
    if mask is not None and q.is_cuda:
        allowed = mask.bias(_arithmetic(q.device, q.dtype))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal, enable_gqa=grouped)
    return out if empty is None else out.masked_fill(empty, 0.0)


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return compiled_by_shape(flex_attention)


def compiled_by_shape(function: Callable[..., Any]) -> Any:
    """torch.compile, once for each shape: a training has a few, more than torch's limit of eight."""
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(function, dynamic=False)


def _arithmetic(device: torch.device, dtype: torch.dtype = torch.float32) -> torch.dtype:
    """In which SDPA computes on values of a type, under autocast and without."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def _flexes(device: torch.device) -> bool:
    """Whether FlexAttention is worth its compilation: on CUDA it is for training, whose shapes come back every step;
    sampling and decoding bring new ones all the time."""
    return device.type == "cpu" or torch.is_grad_enabled()


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None, causal: bool) -> Tensor:
    """FlexAttention, which skips the blocks that the mask closes. Without a mask there is nothing to skip, and SDPA's
    kernel is as good and needs no compilation for each new length of a growing cache; nor does it without gradients
    on CUDA."""
    if mask is None or not _flexes(q.device):
        return _sdpa(q, k, v, mask, causal)
    from torch.nn.attention.flex_attention import flex_attention

    flex: Any = _compiled_flex() if q.is_cuda else flex_attention
    out: Tensor = flex(q, k, v, block_mask=mask.block, enable_gqa=k.shape[1] != q.shape[1])
    return out


ATTENTION: dict[str, Callable[[Tensor, Tensor, Tensor, AttentionMask | None, bool], Tensor]] = {
    "eager": _eager,
    "sdpa": _sdpa,
    "flex": _flex,
}

_forced: str | None = None


@contextmanager
def reference_attention() -> Iterator[None]:
    """Inside it every `attention` call takes the eager path, whatever backend it names: for counting FLOPs."""
    global _forced
    before, _forced = _forced, "eager"
    try:
        yield
    finally:
        _forced = before


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: AttentionMask | None = None, causal: bool = False, backend: str
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, where the mask allows; a query that may attend to nothing gets zeros.

    q: B H T D. k, v: B G S D, G dividing H; query head h reads key head h // (H / G). Returns B H T D.
    causal: the queries are the last T of the S positions and see themselves and what comes before; instead of a mask,
    not with one (put causality into the mask's rule). Errors: ValueError on shapes that don't fit.
    """
    if k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[1] % k.shape[1] or q.shape[3] != k.shape[3]:
        raise ValueError(f"attention of q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: shapes don't fit")
    queries, keys = q.shape[2], k.shape[2]
    if causal and mask is not None:
        raise ValueError("give a mask or causal=True, not both: put causality into the mask's rule")
    if causal and queries > keys:
        raise ValueError(f"causal attention of {queries} queries over {keys} keys: the queries are the last positions")
    if mask is not None and ((mask.queries, mask.keys) != (queries, keys) or mask.batch not in (None, q.shape[0])):
        got = (mask.batch, mask.queries, mask.keys)
        raise ValueError(f"a mask of (batch, T, S) {got} for {(q.shape[0], queries, keys)}")
    if keys == 0:
        return torch.zeros_like(q)
    return ATTENTION[_forced or backend](q, k, v, mask, causal)
