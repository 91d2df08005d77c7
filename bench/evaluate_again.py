"""`python -m bench evaluate`: a done run's metrics anew, without training. The old record stands until the new one is
whole; what changed is told, and noted in it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import finding, runner, stages, store
from bench.config import Config, from_values
from bench.console import Console
from bench.contents import changed_clip, changed_other_texts, changed_text, check_data, check_place
from bench.environment import provenance
from bench.errors import UserError
from bench.evaluate_arguments import EvaluateArguments
from bench.exits import DONE, MISTAKE
from bench.files import atomic_path, read_json, write_json
from bench.meter import now
from bench.picture_metrics import clip_of, inception_of
from bench.plain import flat, plain
from bench.validation import check_names, validate
from metrics.registry import EXTRACTORS, cider_obstacle
from metrics.statistics import Estimate
from reports import schema
from reports.schema import Record, Sample, has

OTHER_TEXT = (
    "what is said of text is of another corpus than that of the training: it has changed since, as `pydocs` does with "
    "the packages that are installed"
)
OTHER_TEXTS = "of the texts that are not replayed, some are others than when the run was made"
OTHER_CLIP = "CLIP's files are others than when the run was made"
PLACE = "again"  # a run's folder for what is not whole yet
BEFORE = "record-before.json"


@dataclass(frozen=True, kw_only=True)
class Changed:
    """One run, measured again. settings: dotted field -> before and after. metrics: name -> before and after, None
    where it was not in the record; those that a clock gave are left out. same: how many others did not change."""

    name: str
    settings: dict[str, tuple[Any, Any]]
    metrics: dict[str, tuple[Estimate | None, Estimate | None]]
    same: int


def main(arguments: EvaluateArguments, config: Config, console: Console) -> int:
    """Measure each run; 0 where all could be, 2 where one could not."""
    code, told = DONE, list[dict[str, Any]]()
    for folder in dict.fromkeys(finding.find(run, arguments.out) for run in arguments.runs):
        try:
            changed = again(folder, arguments, console)
        except UserError as error:
            console.warn(f"{folder.name}: {error}; its record is as it was")
            code = MISTAKE
            told.append({"name": folder.name, "reason": str(error)})
            continue
        told.append({**summary(changed), "reason": ""})
        if not arguments.json:
            tell(changed, console)
    if arguments.json:
        console.emit(told)
    return code


def again(folder: Path, arguments: EvaluateArguments, console: Console) -> Changed:
    """Measure one run and replace its pictures and its record. UserError, and nothing changed, where that can't be."""
    with store.locked(folder):
        before = schema.load(folder)
        run = stages.Run(folder, console)
        trained = _trained(folder)
        asked, old = run.config, from_values(Config, before.config)
        run.config = arguments.applied(old)
        validate(run.config)
        check_names(run.config)
        _check_judges(run, arguments, before)
        check_data(run.request)
        text = changed_text(run.request, console.info)
        same_texts = run.config.evaluate.other_texts == asked.evaluate.other_texts
        unread = same_texts and changed_other_texts(run.request, console.info)
        same_clip = run.config.model.clip == asked.model.clip
        other_clip = same_clip and has(before.metrics, "clip_score") and changed_clip(run.request)
        place = folder / PLACE
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            begun = now()
            found = stages.measure_run(run, trained, place)
            measured = {"seconds": {"measured": now() - begun}, **found}
            after = _record(before, run, trained, measured)
            if not arguments.counts:
                _check_lost(before, after)
            after = replace(after, identical=replace(after.identical, text=text or run.request.parts["text"]))
            notes = [
                note for note, told in ((OTHER_TEXT, text), (OTHER_TEXTS, unread), (OTHER_CLIP, other_clip)) if told
            ]
            after = replace(after, notes=(*after.notes, *notes))
            with _put(place, folder), _kept(folder):
                write_json(folder / stages.MEASURED, measured)
                schema.save(after, folder)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return _compared(before, after)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Inside, the record may be replaced: what it was stays as BEFORE. Where that fails, BEFORE is what it was, too."""
    older = (folder / BEFORE).read_bytes() if (folder / BEFORE).is_file() else None
    with atomic_path(folder / BEFORE) as part:
        shutil.copyfile(folder / schema.FILE, part)
    try:
        yield
    except BaseException:
        (folder / BEFORE).unlink() if older is None else (folder / BEFORE).write_bytes(older)
        raise


def _record(before: Record, run: stages.Run, trained: Mapping[str, Any], measured: Mapping[str, Any]) -> Record:
    """The record with what was measured now; all about training, and curves, as they were."""
    metrics = {**trained["metrics"], **measured["metrics"]}
    config = plain(run.config)
    evaluated = {
        **provenance({"seed": run.config.seed}),
        "command": ["python", "-m", "bench", *sys.argv[1:]],
        **store.sources_now(run.request.approach),
    }
    changes = [f"{name} {old} -> {new}" for name, (old, new) in _settings(before.config, config).items()]
    if store.other_sources(run.request):
        changes.append("by other sources than it was trained with")
    note = f"measured again{': ' if changes else ''}{', '.join(changes)}"
    return replace(
        before,
        config=config,
        provenance={**before.provenance, "evaluated": evaluated},
        budgets=stages.budgets_of(trained, measured),
        identical=replace(before.identical, **measured["identical"]),
        metrics={name: Estimate.from_json(value) for name, value in metrics.items()},
        samples=tuple(Sample(**sample) for sample in measured["samples"]),
        sheets=measured["sheets"],
        notes=(*trained["notes"], *measured["notes"], note),
        seconds={**before.seconds, **measured["seconds"]},
    )


def _check_judges(run: stages.Run, arguments: EvaluateArguments, before: Record) -> None:
    """UserError, before anything is measured, where CLIP, the extractor, Inception-v3 or CIDEr's package can't be had
    that was asked for now, or that the record's numbers are of."""
    if arguments.clip is not None or has(before.metrics, "clip_score"):
        check_place(run.request, "model.clip", run.config.model.clip)
        clip_of(run.config, run.device)
    if has(before.metrics, "caption_cider") and (obstacle := cider_obstacle()):
        raise UserError(f"caption_cider can't be measured: {obstacle}")
    distances = [name for name in before.metrics if name.startswith("fd_") and name != "fd_inception_v3_other"]
    if has(before.metrics, *distances):
        extractor = run.config.evaluate.extractor
        if obstacle := EXTRACTORS[extractor].obstacle():
            raise UserError(f"evaluate.extractor is '{extractor}', which can't run here: {obstacle}")
    if arguments.inception is not None or has(before.metrics, "fid", "fd_inception_v3_other"):
        check_place(run.request, "evaluate.inception", run.config.evaluate.inception)
        inception_of(run.config, run.device)


def _trained(folder: Path) -> dict[str, Any]:
    """What the run's training found. UserError, before anything is measured, where this, what was measured, or the
    weights are gone or damaged."""
    for name in (stages.TRAINED, stages.MEASURED, store.WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{name} is gone: {runner.ANEW.format(folder)}")
    found = read_json(folder / stages.TRAINED)
    fields = {"metrics": dict, "notes": list, "budgets": dict, "frozen_hash": str}
    bad = [
        name for name, kind in fields.items() if not isinstance(found, dict) or not isinstance(found.get(name), kind)
    ]
    if bad:
        raise UserError(f"{stages.TRAINED} is damaged, expected {', '.join(bad)} in it: {runner.ANEW.format(folder)}")
    return dict(found)


def _check_lost(before: Record, after: Record) -> None:
    """UserError where a number of before was tried now, of as many pictures, captions and documents, and is missing. A
    name that is not measured any more (another extractor's) is no loss: what changed is told."""
    lost = [name for name, new in after.metrics.items() if new.value is None and has(before.metrics, name)]
    if lost:
        raise UserError(f"it would lose {', '.join(lost)}: {after.metrics[lost[0]].reason}")


@contextmanager
def _put(place: Path, folder: Path) -> Iterator[None]:
    """The new pictures where the old ones are, and the old ones again where what is done inside fails."""
    here, old = folder / store.SAMPLES, folder / f"{store.SAMPLES}-before"
    measured = (folder / stages.MEASURED).read_bytes()
    shutil.rmtree(old, ignore_errors=True)
    if here.exists():
        here.rename(old)
    try:
        if (place / store.SAMPLES).exists():
            (place / store.SAMPLES).rename(here)
        yield
    except BaseException:
        shutil.rmtree(here, ignore_errors=True)
        if old.exists():
            old.rename(here)
        with suppress(OSError, UserError), atomic_path(folder / stages.MEASURED) as part:
            part.write_bytes(measured)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields of nested settings that differ, dotted."""
    old, new = dict(flat(before)), dict(flat(after))
    pairs = {name: (old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _compared(before: Record, after: Record) -> Changed:
    names = [*before.metrics, *(name for name in after.metrics if name not in before.metrics)]
    pairs = {name: (before.metrics.get(name), after.metrics.get(name)) for name in names}
    repeatable = {
        name: pair for name, pair in pairs.items()
        if not any(each is not None and each.unit in schema.TIMED_UNITS for each in pair)
    }  # fmt: skip
    changed = {name: pair for name, pair in repeatable.items() if _told(pair[0]) != _told(pair[1])}
    return Changed(
        name=after.name,
        settings=_settings(before.config, after.config),
        metrics=changed,
        same=len(repeatable) - len(changed),
    )


def _told(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not measured"
    if estimate.value is None:
        return f"missing: {estimate.reason}"
    interval = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.4g}, {estimate.high:.4g}]"
    return f"{estimate.value:.4g}{interval}"


def summary(changed: Changed) -> dict[str, Any]:
    """A run as the plain values that --json prints."""
    return {
        "name": changed.name,
        "settings": {name: list(pair) for name, pair in changed.settings.items()},
        "metrics": {
            name: [None if each is None else each.to_json() for each in pair] for name, pair in changed.metrics.items()
        },
        "same": changed.same,
    }


def tell(changed: Changed, console: Console) -> None:
    """What changed, as a table."""
    for name, (old, new) in changed.settings.items():
        console.info(f"{changed.name}: {name} was {old!r}, now {new!r}")
    if changed.metrics:
        rows = [("metric", "before", "now")]
        rows += [(name, _told(old)[:60], _told(new)[:60]) for name, (old, new) in changed.metrics.items()]
        console.table(f"{changed.name}, measured again", rows)
    console.info(f"{changed.name}: {len(changed.metrics)} metrics changed, {changed.same} did not (times not compared)")
