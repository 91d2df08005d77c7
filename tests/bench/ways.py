"""What the tests of runs share: approaches of a foreign package, each with its own fate, and a worker that acts it out
without torch. As a script, `python ways.py FOLDER` is that worker."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

from bench import exits, store, worker
from bench.config import Config, DataConfig, TextConfig
from bench.console import Console
from bench.errors import UserError
from metrics.statistics import Estimate
from reports import schema
from reports.schema import Budgets, Record

ROOT = Path(__file__).parents[2]
FATES = ("good", "mistaken", "broken", "greedy", "killed", "eaten", "mute", "slow")

ENTRY = """
from dataclasses import dataclass
from typing import Annotated
from approaches.registry import ApproachEntry
from approaches.settings import Settings
from bench.ranges import Range

@dataclass(frozen=True, kw_only=True)
class Own(Settings):
    '''A stranger's settings.'''

    fate: str = ""
    depth: Annotated[int, Range(1, 9)] = 2

"""


def install(folder: Path, name: str = "strangers") -> None:
    """A package `strangers` with one approach a fate, as pip would leave it in `folder`. name: the distribution's."""
    for module in [module for module in sys.modules if module.partition(".")[0] == "strangers"]:
        del sys.modules[module]  # another test's
    package, info = folder / "strangers", folder / f"{name}-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    lines = [f"{fate.upper()} = ApproachEntry(name='{fate}', target='strangers.way:Way', "
             f"settings='strangers.entry:Own', summary='{fate}')" for fate in FATES]  # fmt: skip
    (package / "__init__.py").write_text("")
    (package / "entry.py").write_text(ENTRY + "\n".join(lines) + "\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = [f"{fate} = strangers.entry:{fate.upper()}" for fate in FATES]
    (info / "entry_points.txt").write_text("[bench.approaches]\n" + "\n".join(points) + "\n")


def micro(folder: Path) -> Config:
    """A config whose world and text are read at once."""
    words = folder / "words.jsonl"
    if not words.exists():
        folder.mkdir(parents=True, exist_ok=True)
        words.write_text(
            "".join(f'{{"text": "document {n} says {n * n} things, and then some more"}}\n' for n in range(60))
        )
    return Config(
        preset="micro",
        data=DataConfig(train_items=48, eval_items=16),
        text=TextConfig(name="file", path=str(words)),
    )


def moved(folder: Path) -> None:
    """What a node leaves that dies at work."""
    store.write_state(folder, "running")
    values = json.loads((folder / store.STATUS).read_text())
    (folder / store.STATUS).write_text(json.dumps({**values, "machine": "another", "process": 7}))


def act(folder: Path, console: Console) -> None:
    """What becomes of a run by its approach's name."""
    request = store.Request.read(folder)
    record = Record(
        key=request.key,
        name=folder.name,
        approach=request.approach,
        settings=request.settings,
        config=dataclasses.asdict(request.config),
        status="unfinished",
    )
    schema.save(record, folder)
    console.info(f"{request.approach} at work")
    match request.approach:
        case "mistaken":
            raise UserError("settings.depth is 3, expected what fits")
        case "broken":
            raise ArithmeticError("the loss is nan at step 7\nand a second line")
        case "greedy":
            raise MemoryError("9 PiB")
        case "killed" | "eaten" if "SPARED" not in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        case "mute":
            os._exit(9)
        case "slow":
            (folder / "begun").touch()
            time.sleep(60)
    metrics = {"validation_loss": Estimate(value=0.25, low=0.2, high=0.3, n=4, better="lower"),
               "fid": Estimate.missing("no weights", better="lower")}  # fmt: skip
    done = dataclasses.replace(
        record, status="done", metrics=metrics, budgets=Budgets(total=12, trainable=5), seconds={"train": 61.0}
    )
    schema.save(done, folder)


if __name__ == "__main__":
    worker.die_with_parent()
    place = Path(sys.argv[1])
    try:
        with store.locked(place):
            sys.exit(worker.guarded(place, Console(as_json="--json" in sys.argv), act))
    except store.BusyError:
        sys.exit(exits.BUSY)
