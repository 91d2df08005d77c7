"""An approach spread over the ranks of a run: torch's fully_shard (FSDP2) on its blocks, and on all that is left.

accelerate's own wrapper hooks a model's `forward`, and picks layers by class or size. An approach is entered by several
methods and says its layers itself, so the layers are wrapped here; how (resharding, offloading) accelerate's plugin
says, which its launcher and its config file fill in. Arithmetic stays autocast's, so that a sharded training computes
what one process does.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from approaches.base import Approach, Batch, Generators
from approaches.shared.language_model import named_hash
from bench import launch
from bench.errors import UserError
from bench.owed import check_losses, check_sharding

if TYPE_CHECKING:
    from accelerate import Accelerator


class LossTerms(nn.Module):
    """The loss terms of a part of a batch: what a training step calls, and the root of what is sharded.

    names: of the terms, known after the first call."""

    def __init__(self, approach: Approach, accelerator: Accelerator) -> None:
        super().__init__()
        self.approach, self.accelerator = approach, accelerator
        self.names: tuple[str, ...] = ()

    def forward(self, batch: Batch, draws: Generators) -> tuple[Tensor, Tensor, Tensor]:
        """Sums, counts and weights of all terms, each float32."""
        with self.accelerator.autocast():
            losses = self.approach.losses(batch, draws)
        check_losses(self.approach, losses, self.names)
        self.names = tuple(losses)
        sums = torch.stack([loss.sum.float() for loss in losses.values()])

        def placed(value: Tensor | float) -> Tensor:
            # filled in on the device: copying a number there would wait for it
            if isinstance(value, Tensor):
                return value.detach().float().to(sums.device)
            return torch.full((), float(value), device=sums.device)

        counts, weights = ([placed(getattr(loss, name)) for loss in losses.values()] for name in ("count", "weight"))
        return sums, torch.stack(counts), torch.stack(weights)


def shard(terms: LossTerms) -> None:
    """Spread the parameters over all ranks, where the launcher asks for it. Gradients become sums over ranks. UserError
    where blocks share parameters with what lies beside them."""
    if not launch.sharded():
        return
    check_sharding(terms.approach)
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    # accelerate keeps the plugin for GPUs only; it reads the launcher's wishes from the environment
    plugin = getattr(terms.accelerator.state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin(fsdp_version=2)
    options: dict[str, Any] = {
        "mesh": init_device_mesh(terms.accelerator.device.type, (terms.accelerator.num_processes,)),
        "reshard_after_forward": plugin.reshard_after_forward,
    }
    if plugin.cpu_offload:
        options["offload_policy"] = plugin.cpu_offload
    # keys and values are views, and nobody writes into them
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(.*\) returned a view tensor")
    for block in terms.approach.blocks():
        fully_shard(block, **options)
        for name in getattr(block, "entries", ()):
            register_fsdp_forward_method(block, name)
    if plugin.reshard_after_forward is True:
        options["reshard_after_forward"] = None  # torch's own choice: what backward needs first stays
    fully_shard(terms, **options)
    for module in terms.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


@contextmanager
def whole(terms: LossTerms) -> Iterator[None]:
    """Inside, the parameters outside all blocks are whole on every rank, so that an approach can be entered by any of
    its methods, by all ranks alike; blocks see to themselves when they are called. Nothing where nothing is sharded.

    What is whole stays so until a backward pass has gone over it (reshard_after_forward false), and hides what has been
    written into the shards: so all is given up on the way in and on the way out."""
    root: Any = terms
    if not launch.sharded():
        yield
        return
    _give_up(terms)
    root.unshard()
    try:
        yield
    finally:
        _give_up(terms)


def _give_up(terms: LossTerms) -> None:
    """Every rank keeps its shards alone."""
    from torch.distributed.fsdp import FSDPModule

    for module in terms.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gathered(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors: on the first rank's CPU alone where they were sharded. All ranks must ask for the same."""
    found = {}
    for name, value in values.items():
        in_full = full(value)  # by all ranks
        if in_full is value:
            found[name] = value
        elif launch.rank() == 0:
            found[name] = in_full.cpu()
    return found


def full(value: Tensor) -> Tensor:
    """A sharded tensor, whole; any other as it is."""
    if not hasattr(value, "full_tensor"):
        return value
    return value.full_tensor()  # type: ignore[no-any-return]


def working(value: Tensor) -> torch.device:
    """Where a tensor is worked on: of one whose shards are kept on the CPU, the devices that share it."""
    if not hasattr(value, "device_mesh"):
        return value.device
    placed: Any = value
    return torch.device(placed.device_mesh.device_type)


def like(stored: Tensor, live: Tensor) -> Tensor:
    """A whole tensor, sharded as a live one of the same shape is; nothing is exchanged for it."""
    if not hasattr(live, "device_mesh"):
        return stored
    from torch.distributed.tensor import distribute_tensor

    placed: Any = live
    mesh, places = placed.device_mesh, placed.placements
    # every rank has the whole, and takes its own share
    shared: Any = distribute_tensor(stored.to(mesh.device_type), mesh, places, src_data_rank=None)
    # shards of parameters that are offloaded lie on the CPU, whatever the mesh's devices are
    found: Any = torch.empty_like(placed, requires_grad=False)
    found.to_local().copy_(shared.to_local())
    return found  # type: ignore[no-any-return]


def check_begun_alike(approach: Approach, frozen_hash: str) -> None:
    """UserError, on all ranks, where they begin with other weights. All ranks must ask, before they share any."""
    if launch.ranks() == 1:
        return
    own = f"{frozen_hash} {named_hash({n.replace('.', '/'): v for n, v in approach.trained_state().items()})}"
    every: list[Any] = [None] * launch.ranks()
    torch.distributed.all_gather_object(every, own)
    if other := [rank for rank, each in enumerate(every) if each != every[0]]:
        raise UserError(
            f"ranks {', '.join(map(str, other))} begin with other weights than the first: every machine needs the same "
            "versions of torch, transformers and diffusers, and the same processors"
        )
