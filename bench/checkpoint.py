"""One training's whole state in one safetensors file, written atomically; no pickle.

Tensors live under `model/`, `ema/` and `optimizer/INDEX/`; all else is JSON in the file's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from approaches.shared.sources import check_safetensors
from bench.errors import UserError
from bench.files import atomic_path


def save(
    path: Path,
    *,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
    meta: dict[str, Any],
) -> None:
    """Write the state; `meta` is plain JSON (step, key, curve)."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
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
    metadata = {"meta": json.dumps(meta), "scalars": json.dumps(scalars)}
    # Clones, because tied weights share storage, which safetensors refuses.
    with atomic_path(path) as part:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, part, metadata)


def load(
    path: Path,
    *,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
    key: str,
) -> dict[str, Any]:
    """Read a state that `save` wrote into the given objects and return its `meta`.

    UserError, before anything is changed, where the file is damaged, belongs to a training of another key, or holds
    tensors of other names or shapes than these objects."""
    check_safetensors(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if "meta" not in metadata:
            raise UserError(f"{path} is no checkpoint of ours")
        meta: dict[str, Any] = json.loads(metadata["meta"])
        if meta.get("key") != key:
            raise UserError(f"{path} belongs to another training (key {meta.get('key')}, this one is {key}); remove it")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    scalars = json.loads(metadata["scalars"])
    _check_shapes(path, tensors, {f"model/{name}": value for name, value in model.state_dict().items()})
    _check_shapes(path, tensors, {f"ema/{name}": value for name, value in average.items()})
    if len(scalars) != len(optimizers):
        raise UserError(f"{path} is of {len(scalars)} optimizers, this training has {len(optimizers)}; remove it")
    model.load_state_dict({n.removeprefix("model/"): v for n, v in tensors.items() if n.startswith("model/")})
    for name in average:
        average[name].copy_(tensors[f"ema/{name}"])
    for number, optimizer in enumerate(optimizers):
        slots: dict[int, dict[str, Any]] = {}
        prefix = f"optimizer{number}/"
        for name, value in tensors.items():
            if name.startswith(prefix):
                index, slot = name.removeprefix(prefix).split("/")
                slots.setdefault(int(index), {})[slot] = value
        for name, value in scalars[number].items():
            index, slot = name.split("/")
            slots.setdefault(int(index), {})[slot] = value
        whole = optimizer.state_dict()
        optimizer.load_state_dict({"state": slots, "param_groups": whole["param_groups"]})
    return meta


def _check_shapes(path: Path, stored: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """UserError where the stored tensors with the same first part of the name differ in name or shape."""
    parts = {name.split("/")[0] for name in expected}
    found = {name: list(value.shape) for name, value in stored.items() if name.split("/")[0] in parts}
    wanted = {name: list(value.shape) for name, value in expected.items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            says = [f"of shape {shapes[name]}" if name in shapes else "absent" for shapes in (found, wanted)]
            raise UserError(f"{path} is of another model: {name} is {says[0]}, this one's is {says[1]}; remove it")
