"""Plans as numbers: the objects and places of a layout, and the tokens that a network reads them as.

A plan decides everything; the caption that it was written for leaves much open. `Layouts.said` keeps of a layout what
its caption says, and opens the rest.

Shapes: B rows, E objects a row (padded, masked), W width of a layout token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approaches.shared.devices import sent
from approaches.shared.patches import sinusoids
from bench.data.scene import BACKGROUNDS, COLOURS, GRID, SHAPES, SIZES, Scene, Thing, parse_plan, plan_text

BACKGROUND = re.compile(rf"\b({'|'.join(BACKGROUNDS)})\s+(?:background|backdrop)\b")
"""Words that name a background: "dark" alone may be a colour's."""
MOST = 4  # objects that the grammar lets a plan name
KINDS = (SIZES, COLOURS, SHAPES)

Plan = tuple[tuple[Thing, ...], str]
"""Objects and background: what `bench.data.scene.parse_plan` gives."""


@dataclass(frozen=True, kw_only=True)
class Layouts:
    """Layouts of B rows. kinds: B E 3 int64, places in SIZES, COLOURS, SHAPES. cells: B E 2 int64, column and row of
    the GRID. mask: B E bool, True for objects. background: B int64, a place in BACKGROUNDS. known: B bool; where False
    there is no plan, and nothing of the row counts. Open: a kind or background one past its last, cells of -1."""

    kinds: Tensor
    cells: Tensor
    mask: Tensor
    background: Tensor
    known: Tensor

    @classmethod
    def of(cls, plans: Sequence[Plan | None]) -> Layouts:
        """Of plans; None is no plan. At least MOST objects wide."""
        rows, most = len(plans), max([MOST, *(len(plan[0]) for plan in plans if plan is not None)])
        kinds, cells = torch.zeros(rows, most, 3, dtype=torch.long), torch.zeros(rows, most, 2, dtype=torch.long)
        mask, background = torch.zeros(rows, most, dtype=torch.bool), torch.zeros(rows, dtype=torch.long)
        for row, plan in enumerate(plans):
            if plan is None:
                continue
            background[row] = BACKGROUNDS.index(plan[1])
            for place, thing in enumerate(plan[0]):
                words = (thing.size, thing.colour, thing.shape)
                kinds[row, place] = torch.tensor([names.index(word) for names, word in zip(KINDS, words, strict=True)])
                cells[row, place] = torch.tensor([int(thing.x * GRID), int(thing.y * GRID)])
                mask[row, place] = True
        known = torch.tensor([plan is not None for plan in plans], dtype=torch.bool)
        return cls(kinds=kinds, cells=cells, mask=mask, background=background, known=known)

    def without(self, dropped: Tensor) -> Layouts:
        """Where `dropped` (B bool) is True, nothing is known."""
        return replace(self, mask=self.mask & ~dropped[:, None], known=self.known & ~dropped)

    def corrected(self, captions: Sequence[str]) -> tuple[Layouts, tuple[bool, ...]]:
        """With the background that a row's caption names where the layout has another, and which rows those were. A
        caption that names none or several changes nothing."""
        background = self.background.clone()
        for row, caption in enumerate(captions):
            named = set(BACKGROUND.findall(caption.lower()))
            if len(named) == 1 and self.known[row]:
                background[row] = BACKGROUNDS.index(named.pop())
        changed = (background != self.background).tolist()
        return replace(self, background=background), tuple(changed)

    def said(self, captions: Sequence[str], kept: Tensor | None = None) -> Layouts:
        """Sizes and colours whose words a row's caption does not hold are open, whichever thing they are said of; so is
        a background that it does not name, and so are all places. kept: B bool, True for rows to be left as they
        are."""
        kinds, background = self.kinds.clone(), self.background.clone()
        for row, caption in enumerate(captions):
            words = _words(caption)
            for place, names in enumerate((SIZES, COLOURS)):
                spoken = torch.tensor([name in words for name in names] + [True])
                kinds[row, :, place] = torch.where(spoken[kinds[row, :, place]], kinds[row, :, place], len(names))
            if not BACKGROUND.search(caption.lower()):
                background[row] = len(BACKGROUNDS)
        kept = torch.zeros(len(self), dtype=torch.bool) if kept is None else kept
        return replace(
            self,
            kinds=torch.where(kept[:, None, None], self.kinds, kinds),
            cells=torch.where(kept[:, None, None], self.cells, -1),
            background=torch.where(kept, self.background, background),
        )

    def select(self, index: Tensor) -> Layouts:
        """The rows at `index`."""
        return Layouts(**{name: value[index] for name, value in vars(self).items()})

    def widened(self, objects: int) -> Layouts:
        """With room for `objects` objects a row."""
        more = objects - self.mask.shape[1]
        return replace(
            self,
            kinds=F.pad(self.kinds, (0, 0, 0, more)),
            cells=F.pad(self.cells, (0, 0, 0, more)),
            mask=F.pad(self.mask, (0, more)),
        )

    def to(self, device: torch.device | str) -> Layouts:
        """The same on another device."""
        return Layouts(**{name: sent(value, device) for name, value in vars(self).items()})

    def __len__(self) -> int:
        return len(self.known)


def _words(caption: str) -> set[str]:
    return set(re.findall(r"[a-z]+", caption.lower()))


def scene_plan(scene: Scene | None) -> Plan | None:
    """The plan of a true scene, with its places rounded as a written plan rounds them."""
    return None if scene is None else parse_plan(plan_text(scene))


class LayoutTokens(nn.Module):
    """One token for each object, the sum of what its size, colour and shape are embedded as and the sinusoids of its
    column and row, nothing for an open place; and one for the background. All carry a common mark, from zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.size, self.colour, self.shape = (nn.Embedding(len(names) + 1, width) for names in KINDS)
        self.background = nn.Embedding(len(BACKGROUNDS) + 1, width)
        self.mark = nn.Parameter(torch.zeros(width))

    @property
    def trained(self) -> bool:
        """Whether a layout was ever learned from: a mark whose gradient was never anything but zero stays zero, under
        weight decay and averaging too."""
        return bool(self.mark.detach().any())

    def forward(self, layouts: Layouts) -> tuple[Tensor, Tensor]:
        """B E+1 W tokens, the background's last, and their mask, B E+1."""
        size, colour, shape = layouts.kinds.unbind(-1)
        places = sinusoids(layouts.cells, self.width // 2, longest=2.0 * GRID).flatten(2).to(self.mark.dtype)
        places = places * (layouts.cells[..., :1] >= 0)
        objects = self.size(size) + self.colour(colour) + self.shape(shape) + places
        tokens = torch.cat([objects, self.background(layouts.background)[:, None]], 1) + self.mark
        return tokens, torch.cat([layouts.mask & layouts.known[:, None], layouts.known[:, None]], 1)
