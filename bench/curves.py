"""`python -m bench curve`: a done run's quality against something that is varied, kept in its record.

`record.curves[OF]` gets a row for each value: OF itself, `pictures`, and of every metric that was had `name`,
`name_low` and `name_high`. `nfe` and `guidance` draw the same captions from the same noise, with the config's other
sampling settings. `batch` draws the first captions in batches of several sizes; its rows are costs, all of one machine,
and `record.provenance["curves"]` says of which. `images` trains the approach anew on each smaller budget, with a
schedule of its own, in the folder `curves` beside the run, and takes those runs' own metrics; its last row is the run
itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from approaches.base import Approach
from approaches.registry import APPROACHES
from bench import batch_sizes, finding, runner, store
from bench.assembly import device_here, open_trained
from bench.collection import Collection, collect
from bench.config import Config, from_values
from bench.console import Console
from bench.contents import check_data, of_judges, unchanged
from bench.curve_arguments import CurveArguments, values_of
from bench.data.catalogue import open_dataset
from bench.errors import UserError, first_line
from bench.exits import DONE, FAILED
from bench.measured import Measured, row
from bench.meter import machine
from bench.picture_metrics import CLIP, FID, SCENES, Judges, distances, draw_pictures
from bench.presets import shortened
from bench.worker import lacks_memory
from reports import schema
from reports.schema import TIMED_UNITS, Record

FOLDER = "curves"  # of the runs that a curve against training pictures needs
SHARES = (4, 2)  # the parts of a run's pictures that are trained on by default
Row = dict[str, float]


def main(arguments: CurveArguments, config: Config, console: Console) -> int:
    """Make the curve, row by row, each kept as soon as it is there; 0, or 3 where a training failed."""
    folder = finding.find(arguments.run, arguments.out)
    record = schema.load(folder)
    request = store.Request.read(folder)
    made: list[Row] = []
    missed: list[str] = []
    config = from_values(Config, record.config)
    how = _how(arguments.of, config)
    before = record.curves.get(arguments.of, ()) if _told(record, arguments.of) == how else ()
    if arguments.of == "images":
        found = _trained(arguments, folder, request, record, missed, console)
    elif arguments.of == "batch":
        found = _timed(arguments, folder, request, config, how, missed, console)
    else:
        found = _sampled(arguments, folder, request, config, missed, console)
    for each in found:
        made.append(each)
        known = {row[arguments.of] for row in made}  # until all are made, those of before stand beside them
        _keep(folder, arguments.of, [*made, *(row for row in before if row[arguments.of] not in known)], how)
    if made and not missed:
        _keep(folder, arguments.of, made, how)
    told = [*missed, *(f"{name}: {reason}" for name, reason in how.get("missing", {}).items())]
    for reason in told:
        console.warn(reason)
    if arguments.json:
        console.emit({**how, "run": folder.name, "of": arguments.of, "rows": made, "missing": told})
    elif made:
        tell(arguments.of, made, folder, console, how)
    return FAILED if missed and (arguments.of == "images" or not made) else DONE


def _how(of: str, config: Config) -> dict[str, Any]:
    """How the rows of a clock are taken; nothing for rows that another machine would give too."""
    if of != "batch":
        return {}
    own = config.diffusion
    prompts = batch_sizes.CAPTIONS
    return {"machine": machine(device_here()), "nfe": own.nfe, "guidance": own.guidance, "prompts": prompts}


def _told(record: Record, of: str) -> dict[str, Any]:
    """How the rows of a curve were taken, as its record says; not what they lack."""
    told = record.provenance.get("curves", {}).get(of, {})
    return {name: value for name, value in told.items() if name != "missing"}


def _keep(folder: Path, name: str, made: Sequence[Row], how: Mapping[str, Any]) -> None:
    """Into the record as it is now: somebody else may have made another curve meanwhile."""
    with store.locked(folder):
        record = schema.load(folder)
        told = {"curves": {**record.provenance.get("curves", {}), name: dict(how)}} if how else {}
        curves = {**record.curves, name: tuple(made)}
        schema.save(replace(record, curves=curves, provenance={**record.provenance, **told}), folder)


def _sampled(
    arguments: CurveArguments,
    folder: Path,
    request: store.Request,
    config: Config,
    missed: list[str],
    console: Console,
) -> Iterator[Row]:
    """Rows against evaluations or guidance. config: the record's."""
    approach, test = _opened(folder, request, config, arguments.pictures, console)
    judges = Judges(config, approach.shared, console, next(approach.parameters()).device)
    for place, value in enumerate(values_of(arguments)):
        try:
            found = quality(approach, test, judges, arguments.of, value, console, loud=place == 0)
            yield {arguments.of: float(value), **found}
        except UserError as error:  # such as more evaluations than the schedule has times
            missed.append(f"{arguments.of} {value:g}: {error}")


def _timed(
    arguments: CurveArguments,
    folder: Path,
    request: store.Request,
    config: Config,
    how: dict[str, Any],
    missed: list[str],
    console: Console,
) -> Iterator[Row]:
    """Rows against pictures a batch. config: the record's. how: gets what the rows lack, and why."""
    values = [int(value) for value in values_of(arguments)]
    most = {rows: max(arguments.pictures, (batch_sizes.LEAST + 1) * rows) for rows in values}
    approach, test = _opened(folder, request, config, max(most.values()), console)
    for rows in values:
        try:
            with console.progress(most[rows], f"batches of {rows}") as progress:
                found, lacking = batch_sizes.cost(approach, test, config, rows, arguments.pictures, progress.advance)
        except (UserError, MemoryError, RuntimeError) as error:
            if not (isinstance(error, UserError) or lacks_memory(error)):
                raise
            missed.append(f"batch {rows}: {first_line(error)}")
            continue
        if lacking:
            how["missing"] = {**how.get("missing", {}), **lacking}
        yield found


def _opened(
    folder: Path, request: store.Request, config: Config, count: int, console: Console
) -> tuple[Approach, Collection]:
    """The trained approach, and the first held-out pictures. UserError where it does not draw."""
    check_data(request)
    approach = open_trained(folder, request)
    if "generate" not in approach.capabilities:
        raise UserError(f"run {folder.name} can't draw: approach '{request.approach}' does not")
    return approach, collect(open_dataset(config.data, "test"), count, approach.shared.codecs["image"], console)


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
    spent = sum(seconds for seconds, _ in drawn.drawing.seconds) / len(drawn)
    evaluations = float(np.mean(drawn.drawing.nfe))
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
    # The record's, which an `evaluate` may have changed since: all rows are measured alike.
    own = from_values(Config, record.config)
    found = {**unchanged(request, console.info), **of_judges(own, console.info)}
    for value in values:
        config = replace(own, train=shortened(own.train, value / whole))
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


def tell(of: str, rows: Sequence[Row], folder: Path, console: Console, how: Mapping[str, Any]) -> None:
    """The curve as a table, a value a column. how: the rows of a clock were taken, for which bounds are told too."""
    names = [
        name for name in dict.fromkeys(name for each in rows for name in each) if not name.endswith(("_low", "_high"))
    ]
    names = [name for name in names if name != of and not name.startswith(("null_", "vae_"))]
    table = [(of, *(f"{each[of]:g}" for each in rows))]
    for name in names:
        table.append((name, *(_cell(each, name, bounds=bool(how)) for each in rows)))
    console.table(f"{folder.name}: {'costs' if how else 'quality'} against {of}", table)
    if how:
        console.info(f"on {how['machine']}; nfe {how['nfe']}, guidance {how['guidance']:g}; {how['prompts']}")
    console.info(f"{folder.name}: {folder / schema.FILE} (curves.{of})")


def _cell(row: Row, name: str, *, bounds: bool) -> str:
    low, high = (row.get(f"{name}_{end}") for end in ("low", "high"))
    interval = f" [{low:.4g}, {high:.4g}]" if bounds and low is not None and high is not None else ""
    return f"{row[name]:.4g}{interval}" if name in row else "-"
