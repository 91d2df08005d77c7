"""Shards in their folder: what `save` removes there is its own, and it follows no link out of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from bench import shard_checkpoint
from bench.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Of a training's checkpoint; this process is the only rank."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    yield tmp_path / "run" / "checkpoint.safetensors"
    dist.destroy_process_group()


def save(path: Path, step: int) -> Path:
    weights = nn.Linear(3, 3).state_dict()
    average = {name: value.clone() for name, value in weights.items()}
    path.parent.mkdir(exist_ok=True)
    shard_checkpoint.save(path, weights=weights, average=average, optimizers=[], meta={"step": step, "key": "k"})
    assert shard_checkpoint.step(path) == step
    return shard_checkpoint.folder_of(path)


def test_a_checkpoint_takes_the_place_of_the_one_before_and_of_nothing_else(path: Path) -> None:
    top = save(path, 1)
    for name in ("mine", "step-1-of-1-ranks-mine", "step-x-of-1-ranks"):
        (top / name).mkdir()
    for name in ("step-9-of-4-ranks", "step-9-of-4-ranks-again"):  # of ranks that were ended while they wrote
        (top / name).mkdir()
    save(path, 2)
    save(path, 2)
    left = {each.name for each in top.iterdir()}
    assert left == {
        shard_checkpoint.LATEST, "step-2-of-1-ranks-again", "mine", "step-1-of-1-ranks-mine", "step-x-of-1-ranks"
    }  # fmt: skip


@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_written_or_removed_through_a_link(path: Path, tmp_path: Path, there: bool) -> None:
    elsewhere = tmp_path / "precious"
    if there:
        (elsewhere / "step-1-of-1-ranks").mkdir(parents=True)
    path.parent.mkdir()
    shard_checkpoint.folder_of(path).symlink_to(elsewhere)
    for act in (lambda: save(path, 2), lambda: shard_checkpoint.step(path)):
        with pytest.raises(UserError, match=r"checkpoint\.shards is a link, expected a folder of its own: delete it"):
            act()
    shard_checkpoint.remove(path)
    assert [each.name for each in elsewhere.glob("*")] == ["step-1-of-1-ranks"] * there


def test_shards_are_read_from_their_own_folder_alone(path: Path, tmp_path: Path) -> None:
    top = save(path, 1)
    (top / "step-1-of-1-ranks").rename(tmp_path / "run" / "elsewhere")
    latest = (top / shard_checkpoint.LATEST).read_text()
    (top / shard_checkpoint.LATEST).write_text(latest.replace("step-1-of-1-ranks", "../elsewhere"))
    weights = {name: torch.zeros_like(value) for name, value in nn.Linear(3, 3).state_dict().items()}
    with pytest.raises(UserError, match="lacks the shards that its latest.json names"):
        shard_checkpoint.load(path, weights=weights, average=weights, optimizers=[], key="k")
