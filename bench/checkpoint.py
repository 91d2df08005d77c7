"""One training's whole state in one safetensors file, written atomically; no pickle.

Tensors live under `model/` (what training changes, and nothing else), `ema/` and `optimizerNUMBER/INDEX/`; all else is
JSON in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from approaches.shared.sources import check_safetensors
from bench.errors import UserError
from bench.files import atomic_path
from bench.shards import like


def save(
    path: Path,
    *,
    weights: Mapping[str, Tensor],
    average: dict[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
    meta: dict[str, Any],
) -> None:
    """Write the state. weights: name -> tensor of all that training changes. meta: plain JSON (step, key, curve, and
    whatever else the training needs to go on)."""
    tensors, scalars = tensors_of(weights, average, optimizers)
    metadata = {"meta": json.dumps(meta), "scalars": json.dumps(scalars)}
    # Clones, because tied weights share storage, which safetensors refuses.
    with atomic_path(path) as part:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, part, metadata)


def tensors_of(
    weights: Mapping[str, Tensor], average: Mapping[str, Tensor], optimizers: list[torch.optim.Optimizer]
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """A training's tensors by the names that they are stored under, and what else an optimizer keeps."""
    tensors = {f"model/{name}": value for name, value in weights.items()}
    tensors |= {f"ema/{name}": value for name, value in average.items()}
    scalars: list[dict[str, Any]] = []
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()["state"]
        scalars.append({})
        for index, slots in state.items():
            for slot, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer{number}/{index}/{slot}"] = value
                else:
                    scalars[number][f"{index}/{slot}"] = value
    return tensors, scalars


def load(
    path: Path,
    *,
    weights: Mapping[str, Tensor],
    average: dict[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
    key: str,
    frozen_hash: str = "",
) -> dict[str, Any]:
    """Read a state that `save` wrote into the given live tensors and optimizers, and return its `meta`.

    UserError, before anything is changed, where the file is damaged, belongs to a training of another key or on other
    frozen weights, or holds tensors of other names or shapes than these objects."""
    _check_whole(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if "meta" not in metadata:
            raise UserError(f"{path} is no checkpoint of ours")
        meta: dict[str, Any] = json.loads(metadata["meta"])
        check_meta(path, meta, key, frozen_hash)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)

    def fill(live: Mapping[str, Tensor]) -> None:
        for name, value in live.items():
            value.copy_(like(tensors[name], value))

    shapes = {name: list(value.shape) for name, value in tensors.items()}
    restore(path, shapes, json.loads(metadata["scalars"]), fill, weights, average, optimizers)
    return meta


def restore(
    path: Path,
    shapes: Mapping[str, list[int]],
    scalars: list[dict[str, Any]],
    fill: Callable[[dict[str, Tensor]], None],
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
) -> None:
    """Bring a stored state back. shapes, scalars: of its tensors, and what else its optimizers keep. fill: writes its
    tensors into live ones by their names. UserError, before anything is changed, where it is another model's."""
    live, _ = tensors_of(weights, average, [])
    check_shapes(path, shapes, {name: list(value.shape) for name, value in live.items()})
    if len(scalars) != len(optimizers):
        raise UserError(f"{path} is of {len(scalars)} optimizers, this training has {len(optimizers)}; remove it")
    slots = [_slots(path, shapes, scalars, number, optimizer) for number, optimizer in enumerate(optimizers)]
    for number, of_optimizer in enumerate(slots):
        for index, found in of_optimizer.items():
            live |= {f"optimizer{number}/{index}/{n}": v for n, v in found.items() if isinstance(v, Tensor)}
    with torch.no_grad():
        fill(live)
    for optimizer, state in zip(optimizers, slots, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _slots(
    path: Path,
    shapes: Mapping[str, list[int]],
    scalars: list[dict[str, Any]],
    number: int,
    optimizer: torch.optim.Optimizer,
) -> dict[int, dict[str, Any]]:
    """Room for an optimizer's state by parameter index, sharded and in memory as its parameters are: a file holds no
    strides (channels_last, say), and torch's fused AdamW walks both through memory side by side. UserError where a
    tensor has not its parameter's shape."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Any]] = {}
    for name, shape in shapes.items():
        if not name.startswith(f"optimizer{number}/"):
            continue
        _, index, slot = name.split("/")
        if int(index) >= len(parameters) or (shape and shape != list(parameters[int(index)].shape)):
            raise UserError(f"{path} is of another optimizer: {name} fits no parameter; remove it")
        room = torch.zeros_like(parameters[int(index)].detach()) if shape else torch.zeros(())
        slots.setdefault(int(index), {})[slot] = room
    for name, value in scalars[number].items():
        index, slot = name.split("/")
        slots.setdefault(int(index), {})[slot] = value
    return slots


def step(path: Path) -> int:
    """The step that a checkpoint is of."""
    _check_whole(path)
    with safe_open(path, "pt") as file:
        return int(json.loads((file.metadata() or {}).get("meta", "{}")).get("step", -1))


def _check_whole(path: Path) -> None:
    """UserError that says what to do, where a checkpoint is damaged."""
    try:
        check_safetensors(path)
    except UserError as error:
        raise UserError(f"{error}; remove it, and the training begins anew") from error


def check_meta(path: Path, meta: Mapping[str, Any], key: str, frozen_hash: str) -> None:
    """UserError where a checkpoint is of another training, or of other frozen weights."""
    if meta.get("key") != key:
        raise UserError(f"{path} belongs to another training (key {meta.get('key')}, this one is {key}); remove it")
    if meta.get("frozen_hash", "") != frozen_hash:
        raise UserError(
            f"{path} was trained on frozen weights {meta.get('frozen_hash')}, these are {frozen_hash}: bring back "
            "the models that it started from, or remove it"
        )


def check_shapes(path: Path, stored: Mapping[str, list[int]], expected: Mapping[str, list[int]]) -> None:
    """UserError where the stored tensors with the same first part of the name differ in name or shape."""
    parts = {name.split("/")[0] for name in expected}
    found = {name: shape for name, shape in stored.items() if name.split("/")[0] in parts}
    for name in sorted(found.keys() | expected.keys(), key=lambda name: (not name.startswith("model/"), name)):
        if found.get(name) != expected.get(name):
            says = [f"of shape {shapes[name]}" if name in shapes else "absent" for shapes in (found, expected)]
            raise UserError(f"{path} is of another model: {name} is {says[0]}, this one's is {says[1]}; remove it")
