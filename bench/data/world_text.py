"""What can be said about the world of shapes in words alone: captions, plans and descriptions, for a language model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.data.captions import caption, description
from bench.data.scene import PLAN_PROMPT, plan_text
from bench.data.shapes import draw_scene
from bench.seeds import derive


def world_document(seed: int, split: str, index: int) -> str:
    """Some lines about one scene, a pure function of the arguments: a caption and its plan, a plan and its description,
    or a caption and the description. Held-out pairs and sentence forms never occur."""
    generator = np.random.default_rng(derive(seed, f"world/{split}", index))
    scene = draw_scene(generator, held_out=False)
    said = PLAN_PROMPT.format(caption=caption(scene, generator, held_out=False))
    plan, whole = plan_text(scene) + "\n", f"description: {description(scene)}\n"
    kind = generator.random()
    if kind < 0.6:
        return said + plan
    if kind < 0.8:
        return plan + whole
    return said + whole


def world_documents(seed: int, split: str) -> Iterator[str]:
    """Documents 0, 1, 2, ... of a split, without end."""
    index = 0
    while True:
        yield world_document(seed, split, index)
        index += 1
