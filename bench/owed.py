"""What an approach owes the suite, asked of it before and while it is trained, so that a mistake in somebody's class is
one sentence at once, and not a traceback or a wrong number after hours. Knows no approach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Set
from numbers import Real
from typing import Any, get_args

import torch
from torch import Tensor

from approaches.base import Approach, Capability, Loss
from bench.errors import UserError, nearest

METHODS: dict[str, tuple[str, ...]] = {
    "denoise": ("condition", "denoise"),
    "generate": (),  # the base class's goes by the two above
    "caption": ("text_start", "text_step"),
    "complete": ("text_start", "text_step", "text_logits"),
}
"""Capability -> the methods of Approach that a class must give for it."""
NAMED = 3  # parameters that a sentence names, of many


def check_class(name: str, made: type[Approach]) -> None:
    """UserError where an approach's class declares a capability that there is none of, or that it has no methods
    for."""
    known = get_args(Capability)
    if left := sorted(made.__abstractmethods__):
        raise UserError(f"approach '{name}': its class has no {left[0]}, which every approach gives")
    if not isinstance(made.capabilities, Set):
        told = type(made.capabilities).__name__
        raise UserError(f"approach '{name}' has a {told} as capabilities, expected a frozenset of {', '.join(known)}")
    for capability in sorted(made.capabilities):
        if capability not in known:
            raise UserError(f"approach '{name}' declares the capability '{capability}': {nearest(capability, known)}")
        for method in METHODS[capability]:
            if getattr(made, method) is getattr(Approach, method):
                raise UserError(f"approach '{name}' declares '{capability}', and its class has no {method}")
    if "generate" in made.capabilities and made.generate is Approach.generate:
        for method in METHODS["denoise"]:
            if getattr(made, method) is getattr(Approach, method):
                raise UserError(f"approach '{name}' declares 'generate': its class has neither {method} nor generate")


def check_sharding(approach: Approach) -> None:
    """UserError where a block's parameter is another module's too, which would find a shard of it."""
    blocks = approach.blocks()
    inside = {id(module) for block in blocks for module in block.modules()}
    shards = {id(parameter): place for place, block in enumerate(blocks) for parameter in block.parameters()}
    for name, module in approach.named_modules():
        for own, parameter in [] if id(module) in inside else module.named_parameters(recurse=False):
            if id(parameter) in shards:
                whose = f"{name}.{own} is block {shards[id(parameter)]}'s parameter, too"
                raise UserError(f"{type(approach).__name__} can't be sharded: {whose}, expected one module's alone")


def check_groups(approach: Approach) -> None:
    """UserError where the parameter groups don't hold every trained parameter once, and nothing else."""
    grouped = Counter(id(parameter) for group in approach.parameter_groups() for parameter in group.parameters)
    trained = {id(value): name for name, value in approach.named_parameters() if value.requires_grad}
    wrong = {
        "in none": [name for place, name in trained.items() if not grouped[place]],
        "in several": [name for place, name in trained.items() if grouped[place] > 1],
    }
    told = [f"{where} is {_few(names)}" for where, names in wrong.items() if names]
    if strangers := len(grouped.keys() - trained.keys()):
        told.append(f"{strangers} in them are not trained, or not the approach's")
    if told:
        raise UserError(
            f"{type(approach).__name__}.parameter_groups don't hold every trained parameter once: {'; '.join(told)}"
        )


def check_losses(approach: Approach, losses: Any, before: Collection[str] = (), *, values: bool = True) -> None:
    """UserError where a step's losses are no terms, lack the one that all are compared by, can't be learned from, or
    are other terms than those of the part of a batch `before`. Looks at no value on a device. values: whether tensors
    have any."""
    whose = type(approach).__name__
    if isinstance(losses, Mapping):
        wrong = next((f"{type(e).__name__} for '{term}'" for term, e in losses.items() if not isinstance(e, Loss)), "")
    else:
        wrong = type(losses).__name__
    if wrong:
        raise UserError(f"{whose}.losses gives {wrong}, expected an approaches.base.Loss for each term's name")
    if "denoise" in approach.capabilities and "diffusion" not in losses:
        raise UserError(f"{whose}.losses has no term 'diffusion', which an approach that declares 'denoise' learns by")
    for term, loss in losses.items():
        for what, value in (("sum", loss.sum), ("count", loss.count)):
            if not isinstance(value, Tensor if what == "sum" else Tensor | Real):
                told = type(value).__name__
                raise UserError(f"{whose}.losses gives a {told} as {what} of '{term}', expected a tensor")
            if isinstance(value, Tensor) and value.ndim:
                raise UserError(
                    f"{whose}.losses gives a {what} of shape {tuple(value.shape)} for '{term}', expected one number"
                )
        if (values or not isinstance(loss.weight, Tensor)) and not loss.weight >= 0:
            raise UserError(f"{whose}.losses gives '{term}' the weight {loss.weight}, expected one from 0")
    if before and tuple(before) != tuple(losses):
        raise UserError(
            f"{whose}.losses had the terms {', '.join(before)}, and has {', '.join(losses)} now: every part of a batch "
            "has the same ones; one that has no rows of a term (train.accumulation, several ranks) gives it a sum and "
            "a count of 0"
        )
    if torch.is_grad_enabled() and not any(loss.sum.requires_grad for loss in losses.values()):
        raise UserError(f"{whose}.losses gives no term with a gradient: was a sum detached, or made without one?")


def check_counts(approach: Approach, told: Mapping[str, Any], found: Mapping[str, float]) -> None:
    """UserError where `counts` and `losses` don't agree about the same part of a batch."""
    told = {name: float(count) for name, count in told.items()}
    if told != dict(found):
        raise UserError(
            f"{type(approach).__name__}.counts gives {told}, and its losses count {dict(found)}: both are to give the "
            "same terms and numbers"
        )


def check_condition(approach: Approach, condition: Any, rows: int) -> None:
    """UserError where what `condition` gave is not what it owes, of as many rows as prompts."""
    whose = f"{type(approach).__name__}.condition"
    if lacking := [name for name in ("select", "cat", "__len__") if not hasattr(type(condition), name)]:
        told = f"a {type(condition).__name__}, which has no {lacking[0]}"
        raise UserError(f"{whose} gives {told}: expected a condition, with len, select and cat")
    if len(condition) != rows:
        raise UserError(f"{whose} gives {len(condition)} rows for {rows} prompts")


def strays(approach: Approach, losses: Mapping[str, Loss]) -> list[tuple[int, ...]]:
    """The shapes of what a step's losses would train and the approach has not among its parameters, as a layer in a
    plain list is: no optimizer, checkpoint or device would get it."""
    known = {id(parameter) for parameter in approach.parameters()}
    waiting = [loss.sum.grad_fn for loss in losses.values()]
    seen, found = set(waiting), []
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            found.append(tuple(leaf.shape))
        fresh = {following for following, _ in node.next_functions} - seen
        seen |= fresh
        waiting.extend(fresh)
    return found


def unreached(names: Collection[str]) -> str:
    """The sentence about trained parameters that never had a gradient; "" for none."""
    return (
        f"{len(names)} trained parameters never had a gradient, and are as they began: {_few(names)}" if names else ""
    )


class Frozen:
    """What training must leave as it was: frozen weights, and buffers, which no checkpoint holds; those that are no
    part of the state dict are nobody's concern. Of this process's shards, where they are sharded."""

    def __init__(self, approach: Approach) -> None:
        self._sums = {name: _sum(value) for name, value in _kept(approach).items()}

    def changed(self, approach: Approach) -> list[str]:
        """The names of those that are others now."""
        now = _kept(approach)
        return [name for name, known in self._sums.items() if name in now and _sum(now[name]) != known]


def _kept(approach: Approach) -> dict[str, Tensor]:
    frozen = {name: value for name, value in approach.named_parameters() if not value.requires_grad}
    weights = {name for name, _ in approach.named_parameters(remove_duplicate=False)}
    return frozen | {name: value for name, value in approach.state_dict().items() if name not in weights}


def frozen_changed(approach: Approach, names: Collection[str], when: str) -> UserError:
    """What is said of frozen weights and buffers that changed. names: none where it was another process' shards."""
    which = _few(names) or "on another rank"
    return UserError(
        f"{when}: frozen weights or buffers of {type(approach).__name__} changed: {which}; a checkpoint holds trained "
        "parameters alone: what is to change has requires_grad, and no statistics run (BatchNorm)"
    )


def _sum(parameter: Tensor) -> int:
    """Of the bits, as whole numbers: exact, in any order, and the same for the same weights."""
    local = parameter.detach()
    local = local.to_local() if hasattr(local, "to_local") else local
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[local.element_size()]
    return int(local.contiguous().view(whole).sum(dtype=torch.int64))


def _few(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:NAMED]) + (", ..." if len(names) > NAMED else "")
