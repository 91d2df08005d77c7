"""A sharded training's state: every rank writes its own shards as safetensors, by torch.distributed.checkpoint. No
pickle.

A checkpoint is a folder beside the path of a whole one, `checkpoint.shards/STEP/`, that counts once `latest.json`
names it, so a kill leaves the one before. Any number of ranks reads it, one process without a launcher too. Names of
tensors are those of bench.checkpoint.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench import checkpoint
from bench.errors import UserError
from bench.files import read_json, write_json

LATEST = "latest.json"
OURS = re.compile(r"step-\d+-of-\d+-ranks(-again)?")
"""Names of what `save` makes, and removes; whatever else lies there is somebody's."""


def folder_of(path: Path) -> Path:
    """Where the shards are of the training whose whole checkpoint would be at `path`."""
    return path.with_suffix(".shards")


def check_place(path: Path) -> None:
    """UserError where the shards of the training at `path` would be written, and removed, through a link."""
    if folder_of(path).is_symlink():
        raise UserError(f"{folder_of(path)} is a link, expected a folder of its own: delete it")


def save(
    path: Path,
    *,
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
    meta: dict[str, Any],
) -> None:
    """Write the state; all ranks together. UserError as `check_place`. See bench.checkpoint.save."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save as save_shards

    check_place(path)
    top, first = folder_of(path), dist.get_rank() == 0
    agreed = [""]
    if first:
        agreed = [f"step-{meta['step']}-of-{dist.get_world_size()}-ranks"]
        if (top / LATEST).exists() and read_json(top / LATEST)["folder"] == agreed[0]:
            agreed = [f"{agreed[0]}-again"]  # what counts stays until its successor does
        shutil.rmtree(top / agreed[0], ignore_errors=True)  # of a process that was ended while it wrote
        (top / agreed[0]).mkdir(parents=True)
    dist.broadcast_object_list(agreed)
    folder = top / agreed[0]
    tensors, scalars = checkpoint.tensors_of(weights, average, optimizers)
    state: dict[str, Any] = dict(tensors)
    save_shards(state, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    if first:
        shapes = {name: list(value.shape) for name, value in tensors.items()}
        write_json(top / LATEST, {"folder": folder.name, "meta": meta, "scalars": scalars, "shapes": shapes})
        for other in top.iterdir():
            if OURS.fullmatch(other.name) and other != folder:
                shutil.rmtree(other, ignore_errors=True)
        path.unlink(missing_ok=True)


def step(path: Path) -> int:
    """The step that the shards beside `path` are of; -1 where there are none. UserError as `check_place`."""
    check_place(path)
    latest = folder_of(path) / LATEST
    return int(read_json(latest)["meta"]["step"]) if latest.exists() else -1


def load(
    path: Path,
    *,
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
    key: str,
    frozen_hash: str = "",
) -> dict[str, Any]:
    """Read what any number of ranks wrote, sharded or not as these tensors are. See bench.checkpoint.load."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_shards

    top = folder_of(path)
    latest = read_json(top / LATEST)
    if not OURS.fullmatch(latest["folder"]) or not any((top / latest["folder"]).glob("*.safetensors")):
        raise UserError(f"{top} lacks the shards that its {LATEST} names: remove it, and the training begins anew")
    meta: dict[str, Any] = latest["meta"]
    checkpoint.check_meta(top, meta, key, frozen_hash)

    def fill(live: dict[str, Tensor]) -> None:
        load_shards(live, storage_reader=HuggingFaceStorageReader(str(top / latest["folder"])))

    checkpoint.restore(top, latest["shapes"], latest["scalars"], fill, weights, average, optimizers)
    return meta


def remove(path: Path) -> None:
    """The shards beside `path`, where there are any."""
    shutil.rmtree(folder_of(path), ignore_errors=True)
