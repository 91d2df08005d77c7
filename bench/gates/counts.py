"""What can be counted exactly, on any machine: parameters, FLOPs, bytes of tensors, graphs, and what is computed once.

Names are group/what, like the timed cases'; each holds whole numbers by name. Kernels are the CPU's."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from approaches.base import Approach
from approaches.registry import APPROACHES
from bench import meter
from bench.batches import Batches
from bench.collection import collect
from bench.counting import flops_per_update
from bench.data.catalogue import open_dataset
from bench.gates.world import ROWS, World, quiet
from bench.sampler import Sampling, draw

Counts = dict[str, int]
READS = {*flop_registry, torch.ops.aten.embedding}
"""Operations that read weights: products, convolutions, attention, and rows of an embedding."""


def counts() -> dict[str, Callable[[World], Counts]]:
    """Everything that is counted, by name."""
    found: dict[str, Callable[[World], Counts]] = {}
    for name in APPROACHES:
        able = APPROACHES[name].load().capabilities
        found[f"parameters/{name}"] = partial(_parameters, name)
        found[f"flops/{name}"] = partial(_flops, name)
        found[f"memory/{name}"] = partial(_memory, name)
        found[f"once/{name}"] = partial(_once, name)
        if "denoise" in able:
            found[f"graphs/{name}"] = partial(_graphs, name)
    found["once/latents"] = _latents
    return found


def _parameters(name: str, world: World) -> Counts:
    told = meter.parameters(world.approach(name), world.test.latents)
    borrowed = {f"borrowed.{part}": count for part, count in told.pop("borrowed").items()}
    return {key: count for key, count in {**told, **borrowed}.items() if count is not None}


def _flops(name: str, world: World) -> Counts:
    approach = world.approach(name)
    found = {"training_step": meter.flops_per_step(approach, world.batches(0), world.batches.generators(0))}
    found["optimizer_step"] = flops_per_update(approach, world.config)
    if "denoise" in approach.capabilities:
        found |= meter.flops_per_evaluation(approach, world.test.latents)
    return found


# ---------------------------------------------------------------------------------------------------------- memory


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations made and that still live; `peak` is the most at any moment. Memory that an
    operation takes and gives back inside itself is not seen. A count, not a sample: the same on every run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's hook: one operation."""
        before = {id(storage) for storage in _storages((args, kwargs))}
        found = func(*args, **(kwargs or {}))
        for storage in _storages(found):
            if id(storage) not in before and id(storage) not in self._known:
                self._add(storage)
        return found

    def _add(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: Any) -> None:
            if self._known.pop(key, None) is not None:
                self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def _storages(values: Any) -> Iterator[Any]:
    for value in torch.utils._pytree.tree_leaves(values):
        if isinstance(value, Tensor):
            yield value.untyped_storage()


def _memory(name: str, world: World) -> Counts:
    """activation_bytes: what a training step's forward pass keeps for its backward pass, weights and batch not among
    it. peak_bytes: the most that is live at once in the whole step, gradients among it."""
    approach, batch = world.fresh(name).train(), world.batches(0)
    given = {value.untyped_storage().data_ptr() for value in (*approach.parameters(), *approach.buffers())}
    given |= {storage.data_ptr() for storage in _storages((batch.draw.latents, batch.noise, batch.describe.latents))}
    kept: dict[int, Any] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage  # held, so that its place is not given to another
        return value

    def step(hook: bool) -> int:
        with Live() as live:
            if hook:
                with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
                    losses = approach.losses(batch, world.batches.generators(0))
            else:
                losses = approach.losses(batch, world.batches.generators(0))
            torch.stack([loss.weight * loss.sum for loss in losses.values()]).sum().backward()
        approach.zero_grad(set_to_none=True)
        return int(live.peak)

    step(False)  # what is made once, on the first step, is not the step's
    peak = step(False)
    step(True)
    return {"activation_bytes": sum(storage.nbytes() for storage in kept.values()), "peak_bytes": peak}


# ---------------------------------------------------------------------------------------------------------- graphs


@torch.no_grad()
def _graphs(name: str, world: World) -> Counts:
    """torch.compile's view of a denoising step: how many graphs it makes of it, why it can't make one (breaks), and how
    often it compiles again for the same shapes with other values. Traced only: no compiler is needed."""
    import logging

    import torch._dynamo as dynamo
    from torch._dynamo.testing import CompileCounter
    from torch._dynamo.utils import counters

    approach = world.approach(name).eval()
    condition, latents = approach.condition(world.prompts()), world.test.latents
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    dynamo.reset()
    counters.clear()
    counter = CompileCounter()

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return approach.denoise(x_t, t, condition)

    step: Any = torch.compile(denoise, backend=counter)
    step(latents[:ROWS], torch.full((ROWS,), 0.25))
    graphs, breaks = counter.frame_count, sum(counters["graph_break"].values())
    step(latents[ROWS : 2 * ROWS], torch.full((ROWS,), 0.75))
    again = counter.frame_count - graphs
    dynamo.reset()
    return {"graphs": graphs, "breaks": breaks, "recompilations": again}


# ------------------------------------------------------------------------------------------------------------ once


class Reads(TorchDispatchMode):
    """How many operations read some weights, however a module reaches them."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {weight.untyped_storage().data_ptr() for weight in weights}
        self.count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's hook: one operation."""
        if func.overloadpacket in READS:
            self.count += any(storage.data_ptr() in self._known for storage in _storages((args, kwargs)))
        return func(*args, **(kwargs or {}))


def _reads(weights: Iterable[Tensor], work: Callable[[], object]) -> int:
    with Reads(weights) as reads:
        work()
    return int(reads.count)


def _once(name: str, world: World) -> Counts:
    """How often the language model's weights are read, by a prompt, a denoising step, a training step and drawings of 2
    and of 4 evaluations; how often a condition is asked for in these; how often a training step reads the codec's."""
    approach = world.approach(name)
    words = list(approach.language_model.parameters())
    codec = list(approach.shared.codecs["image"].parameters())
    losses = partial(approach.train().losses, world.batches(0), world.batches.generators(0))
    found = {
        "language_model.training_step": _reads(words, losses),
        "codec.training_step": _reads(codec, losses),
    }
    approach.eval()
    if "denoise" in approach.capabilities:
        with torch.no_grad():
            made: list[Any] = []
            found["language_model.condition"] = _reads(words, lambda: made.append(approach.condition(world.prompts())))
            x_t, t = world.test.latents[:ROWS], torch.linspace(0.1, 0.9, ROWS)
            found["language_model.denoise"] = _reads(words, lambda: approach.denoise(x_t, t, made[0]))
    if "generate" in approach.capabilities:
        for nfe in (2, 4):
            with _asked(approach) as asked:
                found[f"language_model.drawing_{nfe}"] = _reads(words, partial(_draw, world, approach, nfe))
            found[f"conditions.drawing_{nfe}"] = len(asked)
    return found


@contextmanager
def _asked(approach: Approach) -> Iterator[list[int]]:
    """The number of prompts of each call of `condition` inside."""
    rows: list[int] = []
    own = approach.condition

    def condition(prompts: Any) -> Any:
        rows.append(len(prompts))
        return own(prompts)

    approach.condition = condition  # type: ignore[method-assign]
    try:
        yield rows
    finally:
        del approach.condition


def _draw(world: World, approach: Approach, nfe: int) -> object:
    return draw(approach, world.prompts(), Sampling(nfe=nfe, guidance=3.0), seed=0, batch=ROWS)


def _latents(world: World) -> Counts:
    """How often the codec encodes when a split is collected for the first time, again, and by a training."""
    config = replace(world.config, data=replace(world.config.data, train_items=40, seed=7))
    shared = world.share()
    codec, found = shared.codecs["image"], {}
    own, calls = codec.encode, list[int]()

    def encode(pictures: Tensor) -> Tensor:
        calls.append(len(pictures))
        return own(pictures)

    codec.encode = encode  # type: ignore[method-assign]
    dataset = open_dataset(config.data, "train")
    for when in ("first", "again"):
        calls.clear()
        collect(dataset, config.data.train_items, codec, quiet())
        found[when] = sum(calls)
    calls.clear()
    Batches(config, dataset, world.corpus, shared.language_model, codec, quiet())(0)
    found["training"] = sum(calls)
    return found
