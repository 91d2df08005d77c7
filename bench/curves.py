"""`python -m bench curve`: a done run's quality against something that is varied, kept in its record.

`record.curves[OF]` gets a row for each value: OF itself, `pictures`, and of every metric that was had `name`,
`name_low` and `name_high`. `nfe` and `guidance` draw the same captions from the same noise, with the config's other
sampling settings. `images` trains the approach anew on each smaller budget, with a schedule of its own, in the folder
`curves` beside the run, and takes those runs' own metrics; its last row is the run itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from approaches.base import Approach
from approaches.registry import APPROACHES
from bench import runner, store
from bench.assembly import open_trained
from bench.collection import Collection, collect
from bench.config import Config, from_values
from bench.console import Console
from bench.contents import check_data, unchanged
from bench.curve_arguments import CurveArguments, values_of
from bench.data.catalogue import open_dataset
from bench.errors import UserError
from bench.exits import DONE, FAILED
from bench.measured import Measured, row
from bench.picture_metrics import CLIP, FID, SCENES, Judges, distances, draw_pictures
from bench.presets import shortened
from reports import schema
from reports.schema import TIMED_UNITS, Record

FOLDER = "curves"  # of the runs that a curve against training pictures needs
SHARES = (4, 2)  # the parts of a run's pictures that are trained on by default
Row = dict[str, float]


def main(arguments: CurveArguments, config: Config, console: Console) -> int:
    """Make the curve, row by row, each kept as soon as it is there; 0, or 3 where a training failed."""
    folder = store.find(arguments.run, arguments.out)
    record = schema.load(folder)
    request = store.Request.read(folder)
    made: list[Row] = []
    before = record.curves.get(arguments.of, ())
    missed: list[str] = []
    found = (
        _trained(arguments, folder, request, record, missed, console)
        if arguments.of == "images"
        else _sampled(arguments, folder, request, from_values(Config, record.config), missed, console)
    )
    for each in found:
        made.append(each)
        known = {row[arguments.of] for row in made}  # until the last is made, those of before stand beside them
        _keep(folder, arguments.of, [*made, *(row for row in before if row[arguments.of] not in known)])
    if made:
        _keep(folder, arguments.of, made)
    for reason in missed:
        console.warn(reason)
    if arguments.json:
        console.emit({"run": folder.name, "of": arguments.of, "rows": made, "missing": missed})
    elif made:
        tell(arguments.of, made, folder, console)
    return FAILED if missed and arguments.of == "images" else DONE


def _keep(folder: Path, name: str, made: Sequence[Row]) -> None:
    """Into the record as it is now: somebody else may have made another curve meanwhile."""
    with store.locked(folder):
        record = schema.load(folder)
        schema.save(replace(record, curves={**record.curves, name: tuple(made)}), folder)


def _sampled(
    arguments: CurveArguments,
    folder: Path,
    request: store.Request,
    config: Config,
    missed: list[str],
    console: Console,
) -> Iterator[Row]:
    """Rows against evaluations or guidance. config: the record's."""
    check_data(request)
    approach = open_trained(folder, request)
    if "generate" not in approach.capabilities:
        raise UserError(f"run {folder.name} can't draw: approach '{request.approach}' does not")
    shared = approach.shared
    device = next(approach.parameters()).device
    test = collect(open_dataset(config.data, "test"), arguments.pictures, shared.codecs["image"], console)
    judges = Judges(config, shared, console, device)
    for place, value in enumerate(values_of(arguments)):
        try:
            found = quality(approach, test, judges, arguments.of, value, console, loud=place == 0)
            yield {arguments.of: float(value), **found}
        except UserError as error:  # such as more evaluations than the schedule has times
            missed.append(f"{arguments.of} {value:g}: {error}")


def quality(
    approach: Approach, test: Collection, judges: Judges, of: str, value: float, console: Console, *, loud: bool = True
) -> Row:
    """What pictures drawn with one value are worth, as a row's numbers. loud: whether to say what is missing."""
    config = judges.config
    drawn = draw_pictures(
        approach,
        test,
        len(test),
        config,
        console,
        nfe=int(value) if of == "nfe" else None,
        guidance=value if of == "guidance" else None,
        description=f"{of} {value:g}",
    )
    found = Measured()
    warned = console if loud else None
    found.attempt(distances(config.evaluate.extractor), lambda: judges.features(drawn), warned)
    found.attempt(FID, lambda: judges.fid(drawn), warned)
    found.attempt(CLIP, lambda: judges.alignment(drawn), warned)
    found.attempt(SCENES, lambda: judges.scenes(drawn), warned)
    spent = sum(seconds for seconds, _ in drawn.drawn.seconds) / len(drawn)
    evaluations = float(np.mean(drawn.drawn.nfe))
    return {"pictures": float(len(drawn)), "seconds_per_image": spent, "nfe_spent": evaluations, **row(found.metrics)}


def _trained(
    arguments: CurveArguments,
    folder: Path,
    request: store.Request,
    record: Record,
    missed: list[str],
    console: Console,
) -> Iterator[Row]:
    """Rows against pictures trained on, and the run's own."""
    whole = record.budgets.images
    if not whole:
        raise UserError(f"the record of {folder.name} does not say how many pictures were trained on")
    values = [int(value) for value in values_of(arguments)] or [whole // share for share in SHARES]
    if over := [value for value in values if value >= whole]:
        raise UserError(f"--values has {over[0]}, expected fewer than the run's own {whole} training pictures")
    settings = from_values(APPROACHES[request.approach].load_settings(), request.settings)
    found = unchanged(request, console.info)
    for value in values:
        # The record's, which an `evaluate` may have changed since: all rows are measured alike.
        config = from_values(Config, record.config)
        config = replace(config, train=shortened(config.train, value / whole))
        shorter = store.request(config, request.approach, settings, found, request.command)
        if shorter.parts["sources"] != request.parts["sources"]:
            console.warn(
                f"{folder.name} was trained by other sources than these: its own row may not belong to the others"
            )
        end = runner.execute(shorter, folder.parent / FOLDER, console)
        if end.record is None:
            missed.append(f"images {value}: {end.state.state}: {end.state.reason}")
            continue
        yield _row_of(end.record)
    yield _row_of(record)


def _row_of(record: Record) -> Row:
    kept = {name: each for name, each in record.metrics.items() if each.unit not in TIMED_UNITS}
    judged = [each.n for name, each in kept.items() if name in CLIP or name in SCENES]
    return {
        "images": float(record.budgets.images or 0),
        "pictures": float(max(judged, default=len(record.samples))),
        **row(kept),
    }


def tell(of: str, rows: Sequence[Row], folder: Path, console: Console) -> None:
    """The curve as a table, a value a column."""
    names = [
        name for name in dict.fromkeys(name for each in rows for name in each) if not name.endswith(("_low", "_high"))
    ]
    names = [name for name in names if name != of and not name.startswith(("null_", "vae_"))]
    table = [(of, *(f"{each[of]:g}" for each in rows))]
    for name in names:
        table.append((name, *(f"{each[name]:.4g}" if name in each else "-" for each in rows)))
    console.table(f"{folder.name}: quality against {of}", table)
    console.info(f"{folder.name}: {folder / schema.FILE} (curves.{of})")
