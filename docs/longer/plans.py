"""How many plans a run's model still writes: `python docs/longer/plans.py RUN...`, of 100 held-out captions, greedily.

The shipped language model learned to answer `picture: CAPTION` with a line of plan (bench/data/world_text.py)."""

from __future__ import annotations

import sys

import bench
from bench.data.scene import PLAN_PROMPT, parse_plan
from bench.data.shapes import Shapes

for name in sys.argv[1:]:
    run = bench.load(name)
    captions = [sample.captions[0] for sample in Shapes.build(run.config.data, "test").first(100)]
    written = [run.complete(f"{PLAN_PROMPT.format(caption=caption)}plan:", tokens=60) for caption in captions]
    read = sum(parse_plan(text.split("\n")[0]) is not None for text in written)
    print(f"{name}: {read} of {len(written)} plans can be read; the first: {written[0].splitlines()[:1]}")
