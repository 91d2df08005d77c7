"""What ranks exchange and keep, in a group of one process: shards that outlive a failed successor, gradients that
nobody has, matrices worked on a few at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from bench import checkpoint, launch, muon, ranks, shard_checkpoint
from bench.errors import UserError
from bench.meter import Meter
from bench.shards import check_begun_alike, like
from bench.training import ApproachTrainee


@pytest.fixture()
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def kept(path: Path, value: float, step: int = 3) -> None:
    weights = {"w": torch.full((2, 3), value)}
    meta = {"step": step, "key": "k", "frozen_hash": ""}
    shard_checkpoint.save(path, weights=weights, average={}, optimizers=[], meta=meta)


def read(path: Path) -> float:
    weights = {"w": torch.zeros(2, 3)}
    shard_checkpoint.load(path, weights=weights, average={}, optimizers=[], key="k")
    return float(weights["w"].unique())


def test_shards_count_until_their_successor_is_whole(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.distributed.checkpoint.state_dict_saver as saver

    path = tmp_path / "checkpoint.safetensors"
    kept(path, 1.0)
    kept(path, 2.0)  # of the same step, as when a training that had ended is started again
    assert read(path) == 2.0
    with monkeypatch.context() as patch:

        def ended(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(saver, "save", ended)
        for step in (3, 4):
            with pytest.raises(KeyboardInterrupt):
                kept(path, 3.0, step)
            assert shard_checkpoint.step(path) == 3 and read(path) == 2.0
    kept(path, 4.0)
    assert (
        read(path) == 4.0 and len([each for each in shard_checkpoint.folder_of(path).iterdir() if each.is_dir()]) == 1
    )


def test_shards_that_are_gone_are_told(alone: None, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    kept(path, 1.0)
    for file in shard_checkpoint.folder_of(path).rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(UserError, match=r"lacks the shards that its latest.json names: remove it"):
        read(path)


def test_a_gradient_that_no_rank_has_stays_none_and_others_are_added(alone: None) -> None:
    reached, missed = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    reached.grad = torch.tensor([1.0, 2.0])
    trainee: Any = object.__new__(ApproachTrainee)
    trainee.trained, trainee.sharded = [missed, reached], False
    trainee.accelerator = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    trainee._add_gradients()
    assert missed.grad is None  # zeros would be decayed by an optimizer, which one process does not
    assert reached.grad is not None and reached.grad.tolist() == [1.0, 2.0]


def test_an_exchanged_gradient_is_laid_out_as_its_parameter(alone: None) -> None:
    """A fused optimizer walks the memory of both alike."""
    odd = nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    half = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    own = torch.randn(2, 3, 4, 4)
    odd.grad, half.grad = own.to(memory_format=torch.channels_last), torch.ones(3, dtype=torch.bfloat16)
    trainee: Any = object.__new__(ApproachTrainee)
    trainee.trained, trainee.sharded = [odd, half], False
    trainee.accelerator = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    trainee._add_gradients()
    assert odd.grad is not None and odd.grad.stride() == odd.stride() and torch.equal(odd.grad, own)
    assert half.grad is not None and half.grad.dtype == torch.bfloat16 and half.grad.tolist() == [1.0] * 3


def test_ranks_that_begin_with_other_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a version of transformers gives all ranks but the first zeros."""
    weights = {"w": torch.ones(2)}
    approach: Any = SimpleNamespace(trained_state=lambda: weights)

    monkeypatch.setattr(launch, "ranks", lambda: 2)
    every: list[Any] = [None]
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda found, own: found.__setitem__(0, own))
    with pytest.raises(UserError, match="ranks 1 begin with other weights than the first"):  # the second said nothing
        check_begun_alike(approach, "frozen")
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda found, own: every.append(own))
    check_begun_alike(approach, "frozen")
    weights["w"] = torch.zeros(2)
    check_begun_alike(approach, "frozen")
    weights["w"] = torch.ones(2)
    check_begun_alike(approach, "other")
    assert len(set(every[1:])) == 3  # by what is trained, and by what is not


@pytest.mark.parametrize(("said", "cpu"), [("1", True), ("true", True), ("yes", True), ("false", False), ("", False)])
def test_ranks_join_where_models_live_and_read_their_own_weights(
    said: str, cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", said)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")  # as accelerate's launcher has it
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ranks, "PartialState", lambda **told: told)
    assert ranks.joined() == {"cpu": cpu, "timeout": ranks.EXCHANGE}
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"


@pytest.mark.parametrize(
    ("whole", "shards", "taken"), [(4, 3, "whole"), (4, 4, "whole"), (4, 5, "shards"), (4, -1, "whole")]
)
def test_of_a_whole_checkpoint_and_shards_the_later_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int, shards: int, taken: str
) -> None:
    path, weights = tmp_path / "checkpoint.safetensors", {"w": torch.ones(2)}
    checkpoint.save(path, weights=weights, average={}, optimizers=[], meta={"step": whole, "key": "k", "of": "whole"})
    monkeypatch.setattr(shard_checkpoint, "step", lambda _: shards)
    monkeypatch.setattr(shard_checkpoint, "load", lambda *_, **__: {"of": "shards"})
    trainee: Any = object.__new__(ApproachTrainee)
    trainee.weights, trainee.optimizers = weights, []
    assert trainee.load(path, {}, "k")["of"] == taken


def test_a_whole_checkpoint_takes_the_place_of_shards(alone: None, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    kept(path, 1.0)
    trainee: Any = object.__new__(ApproachTrainee)
    trainee.weights, trainee.optimizers, trainee.sharded, trainee.main = {"w": torch.ones(2)}, [], False, True
    trainee.save(path, {}, {"step": 3, "key": "k"})
    assert path.exists() and shard_checkpoint.step(path) < 0


def test_matrices_a_few_at_a_time_take_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped() -> list[torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        matrices = [nn.Parameter(torch.randn(8, 12, generator=draw)) for _ in range(5)]
        optimizer = muon.Muon([{"params": matrices, "lr": 0.1, "weight_decay": 0.1}])
        for matrix in matrices:
            matrix.grad = torch.randn(8, 12, generator=draw)
        optimizer.step()
        return [matrix.detach() for matrix in matrices]

    sizes: list[int] = []

    def noted(matrices: torch.Tensor) -> torch.Tensor:
        sizes.append(len(matrices))
        return turn(matrices)

    turn, whole = muon.orthogonalised, stepped()
    monkeypatch.setattr(muon, "orthogonalised", noted)
    monkeypatch.setattr(muon, "CHUNK_BYTES", 2 * 4 * 8 * 12)
    torch.testing.assert_close(stepped(), whole)
    assert sizes == [2, 2, 1]


def test_a_whole_matrix_is_dealt_out_as_a_sharded_one_is(alone: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    live = distribute_tensor(torch.zeros(5, 3), init_device_mesh("cpu", (1,)), [Shard(0)])
    whole = torch.arange(15.0).view(5, 3)
    dealt: Any = like(whole, live)
    assert dealt.placements == live.placements and torch.equal(dealt.full_tensor(), whole)


def test_laps_of_another_place_are_no_laps_of_this_one() -> None:
    before = Meter(warmup=0, place="8 x cuda")
    before.lap(4)
    same, other = Meter(place="8 x cuda"), Meter(place="1 x cpu")
    for meter in (same, other):
        meter.restore(before.state())
    assert [steps for _, steps in same.laps] == [4] and other.laps == []
    assert other.seconds == same.seconds == before.seconds  # a budget in seconds goes on
