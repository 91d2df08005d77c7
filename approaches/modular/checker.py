"""The checker: does a picture show what a plan says? Trained on true pictures beside true and false plans.

Shapes: B rows, C H W a latent, N image tokens, E planned objects, D width. Verdicts on E + 2 items a row: each object
is there as planned; the background is; nothing more is in the picture, and nothing is planned twice.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approaches.modular.expert import expert_config
from approaches.modular.layout import KINDS, Layouts, LayoutTokens
from approaches.shared.kernels import AttentionMask, Kernels
from approaches.shared.patches import Patchify, positions_2d
from approaches.shared.transformer import Block, RMSNorm, Rotary
from bench.data.scene import BACKGROUNDS, GRID

NEAR = 1  # cells, along each axis, by which an object may stand beside its planned place

WINDOW = 7  # cells a side that are looked at around a planned place: a large object, and the slack of its place
REACH = 0.15  # of the picture's width: how far around its place an object is laid over the patches

TRUE_SHARE = 0.4  # of rows whose plan is left true
WAYS_TO_BE_FALSE = ("size", "colour", "shape", "place", "background", "removed", "added", "other")
JITTER = 0.3  # share of coordinates that are a cell off, which leaves their places true (NEAR)


class Checker(nn.Module):
    """A bidirectional transformer over the picture's patches, the layout's tokens and one token for the whole.

    Patches are told which objects are planned near them, and objects what is to be seen around their places: left to
    find that by attention alone, it took many more steps to learn."""

    def __init__(self, patchify: Patchify, *, width: int, layers: int, kernels: Kernels) -> None:
        super().__init__()
        # padding closes no whole blocks that FlexAttention could skip
        kernels = replace(kernels, attention=kernels.over_padding)
        config = expert_config(width, layers)
        self.patchify, self.kernels = patchify, kernels
        self.into = nn.Linear(patchify.width, width)
        self.around = nn.Linear(patchify.channels * WINDOW**2, width)
        self.covered = nn.Linear(width, width, bias=False)
        self.place = nn.Parameter(positions_2d(width, patchify.side))
        self.layout = LayoutTokens(width)
        self.whole = nn.Parameter(torch.randn(width))
        self.layers = nn.ModuleList(Block(config, kernels) for _ in range(layers))
        self.norm = RMSNorm(width, config.norm_eps, kernels.norm)
        self.rotary = Rotary(config)
        self.out = nn.Linear(width, 1)

    def forward(self, latents: Tensor, layouts: Layouts) -> tuple[Tensor, Tensor]:
        """Logits of the items, B E+2, and which of them count, B E+2 bool; none does where there is no plan."""
        latents = latents.to(self.into.weight.dtype)
        planned, mask = self.layout(layouts)
        objects = planned[:, :-1] * layouts.mask[..., None]
        image = self.into(self.patchify.split(latents)) + self.place
        image = image + self.covered(nearness(layouts.cells, self.patchify.side).to(objects.dtype) @ objects)
        seen_there = self.around(windows(latents, layouts.cells))
        planned = torch.cat([planned[:, :-1] + seen_there, planned[:, -1:]], 1)
        x = torch.cat([image, planned, self.whole.expand(len(image), 1, -1)], 1)
        items = torch.cat([mask, layouts.known[:, None]], 1)
        seen = torch.cat([items.new_ones(image.shape[:2]), items], 1)
        attends = AttentionMask.over(seen, x.shape[1], may_be_empty=False).build(self.kernels.attention)
        # an order of tokens would mean nothing here: all stand at position 0, which turns nothing
        rope = self.rotary(torch.zeros(x.shape[1], dtype=torch.long, device=x.device), x.dtype)
        for block in self.layers:
            x = block(x, rope, attends)
        logits: Tensor = self.out(self.norm(x[:, image.shape[1] :]))[..., 0]
        return logits, items

    def probabilities(self, latents: Tensor, layouts: Layouts) -> tuple[Tensor, Tensor]:
        """Of each row the verdict, B: the least of its items' probabilities, 1 where there is no plan, 0 of a picture
        that is not finite; and those of each item, B E+2, NaN for those that don't count."""
        logits, items = self(latents, layouts)
        each = logits.float().sigmoid().nan_to_num(0.0)
        return each.masked_fill(~items, 1.0).amin(1), each.masked_fill(~items, torch.nan)

    def loss(self, latents: Tensor, planned: Layouts, true: Layouts) -> Tensor:
        """The sum over rows of the mean binary cross entropy of their items; rows without a plan give 0."""
        logits, items = self(latents, planned)
        truth = agreement(planned, true).float()
        each = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none") * items
        total: Tensor = (each.sum(1) / items.sum(1).clamp(min=1)).sum()
        return total


def windows(latents: Tensor, cells: Tensor) -> Tensor:
    """What is to be seen around each planned place, as detectors look at a region (RoIAlign, arXiv 1703.06870): WINDOW
    x WINDOW points a cell apart, zero outside the picture. latents: B C H W, cells: B E 2 -> B E C*WINDOW^2."""
    offsets = torch.arange(WINDOW, device=cells.device) - WINDOW // 2
    column, row = ((cells[..., axis, None] + offsets + 0.5) * (2 / GRID) - 1 for axis in (0, 1))
    points = torch.stack(
        [column[:, :, None, :].expand(-1, -1, WINDOW, -1), row[..., None].expand(-1, -1, -1, WINDOW)], -1
    )
    taken = F.grid_sample(latents, points.flatten(2, 3).to(latents.dtype), align_corners=False)
    return taken.permute(0, 2, 1, 3).flatten(2)


def nearness(cells: Tensor, side: int) -> Tensor:
    """How near each of side x side patches is to each planned place, 1 down to 0: cells B E 2 -> B N E."""
    line = (torch.arange(side, device=cells.device) + 0.5) / side
    column, row = ((line - (cells[..., axis, None] + 0.5) / GRID).square() for axis in (0, 1))
    squares = row[..., :, None] + column[..., None, :]
    return torch.exp(-squares / (2 * REACH**2)).flatten(2).transpose(1, 2)


def agreement(planned: Layouts, true: Layouts) -> Tensor:
    """The truth about each item, B E+2 bool: a planned object is there where the scene has one of its size, colour and
    shape at most NEAR cells away along each axis; nothing more is there where each of the scene's has such a
    planned one, and they are equally many."""
    alike = (planned.kinds[:, :, None] == true.kinds[:, None]).all(-1)
    near = (planned.cells[:, :, None] - true.cells[:, None]).abs().amax(-1) <= NEAR
    same = alike & near & planned.mask[:, :, None] & true.mask[:, None]
    complete = (same.any(1) | ~true.mask).all(1) & (planned.mask.sum(1) == true.mask.sum(1))
    background = planned.background == true.background
    return torch.cat([same.any(2), background[:, None], complete[:, None]], 1)


def drawn_ways(rows: int, generator: torch.Generator) -> Tensor:
    """How each row's plan is to be false, B: a place in WAYS_TO_BE_FALSE, evenly, or -1 for TRUE_SHARE of rows."""
    ways = torch.randint(len(WAYS_TO_BE_FALSE), (rows,), generator=generator)
    return torch.where(torch.rand(rows, generator=generator) < TRUE_SHARE, -1, ways)


def corrupted(true: Layouts, way: Tensor, generator: torch.Generator) -> Layouts:
    """Plans to judge the pictures of `true` against, on the CPU: each row made false in its own way (see `drawn_ways`);
    in all rows a share JITTER of coordinates is a cell off, as in a planner's. There is room for one object more. Some
    are true after all, by chance: `agreement` says which."""
    rows, width = len(true), true.mask.shape[1] + 1
    wide = true.widened(width)
    kinds, cells, mask, background = wide.kinds.clone(), wide.cells.clone(), wide.mask.clone(), wide.background.clone()

    def draw(below: int, *shape: int) -> Tensor:
        return torch.randint(below, (rows, *shape), generator=generator)

    step = torch.where(torch.rand(rows, width, 2, generator=generator) < JITTER, 2 * draw(2, width, 2) - 1, 0)
    cells = (cells + step).clamp(0, GRID - 1)
    at, row = (torch.rand(rows, width, generator=generator) * mask).argmax(1), torch.arange(rows)
    chosen = torch.arange(width) == at[:, None]

    def where(name: str) -> Tensor:
        return (way == WAYS_TO_BE_FALSE.index(name))[:, None] & chosen & wide.mask

    for place, (name, names) in enumerate(zip(("size", "colour", "shape"), KINDS, strict=True)):
        other = (kinds[:, :, place] + 1 + draw(len(names) - 1, width)) % len(names)
        kinds[:, :, place] = torch.where(where(name), other, kinds[:, :, place])
    cells = torch.where(where("place")[..., None], draw(GRID, width, 2), cells)
    background = torch.where(way == WAYS_TO_BE_FALSE.index("background"), len(BACKGROUNDS) - 1 - background, background)
    mask &= ~where("removed")
    # an object that is not there: half of them the likes of one that is, as when a count is wrong
    new = torch.stack([draw(len(names)) for names in KINDS], -1)
    new = torch.where((draw(2) == 0)[:, None], kinds[row, at], new)
    slot = (torch.arange(width) == wide.mask.sum(1)[:, None]) & (way == WAYS_TO_BE_FALSE.index("added"))[:, None]
    kinds = torch.where(slot[..., None], new[:, None], kinds)
    cells = torch.where(slot[..., None], draw(GRID, 1, 2), cells)
    mask |= slot & wide.known[:, None]
    swapped = (way == WAYS_TO_BE_FALSE.index("other")) & wide.known.roll(1)
    return Layouts(
        kinds=torch.where(swapped[:, None, None], kinds.roll(1, 0), kinds),
        cells=torch.where(swapped[:, None, None], cells.roll(1, 0), cells),
        mask=torch.where(swapped[:, None], mask.roll(1, 0), mask) & wide.known[:, None],
        background=torch.where(swapped, background.roll(1, 0), background),
        known=wide.known,
    )
