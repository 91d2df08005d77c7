"""`python -m bench judge`: pictures that anybody made, by the metrics of a run. No training, and no run needed.

N pictures to judge, M of the reference, C feature size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.assembly import device_here
from bench.config import Config, from_values
from bench.console import Console
from bench.data.folder import caption_beside, rows_of
from bench.data.loose import Files, Loose, look, named
from bench.data.sources import has_metadata
from bench.errors import UserError
from bench.exits import DONE
from bench.files import at_home, write_json
from bench.judge_arguments import JudgeArguments, is_run
from bench.measured import Measured, Names
from bench.picture_metrics import CLIP, FID, NEIGHBOURS, as_fid, clip_of, distances, inception_of
from bench.seeds import derive
from metrics.alignment import clip_metrics
from metrics.extraction import Extractor, extract_each
from metrics.features import open_extractor
from metrics.fidelity import distance_metrics, fidelity_metrics
from metrics.statistics import Estimate
from reports import schema
from reports.glossary import written
from reports.tables import RANK_DEFICIENT

MATCHED = "_matched"
LEAST = 2  # pictures; below it no set has a spread
NULL = (
    "null_...: {held} pictures of the reference against its other {rest}, parted at random; ..._matched: {held} of the "
    "pictures judged against the same {rest}. These two have the same n, so compare them with each other"
)
NO_REFERENCE = "no --reference was given"
NO_CAPTIONS = "the pictures have no captions: no metadata in their folder names them, and no .txt stands beside them"
OWN_CLIP = "this CLIP was trained on coloured shapes and emoji: for other pictures take --clip, as ViT-B-32/openai"


@dataclass(frozen=True, kw_only=True)
class Given:
    """Picture files as they were given. where: the folder, for messages. captions: of a picture, by its name. deaf: why
    there are none."""

    where: str
    files: Mapping[str, Path]
    captions: Mapping[str, str] = field(default_factory=dict)
    deaf: str = ""
    notes: tuple[str, ...] = ()


def main(arguments: JudgeArguments, config: Config, console: Console) -> int:
    """Print every number of the pictures, what is missing and why; 0. UserError where there is no number at all."""
    base = from_values(Config, schema.load(arguments.place).config) if is_run(arguments.place) else config
    config = arguments.applied(base)
    drawn = _given(arguments.place, "drawn")
    reference = _reference(arguments)
    if reference is None and not drawn.captions:
        raise UserError(
            f"there is nothing to judge {arguments.drawn} by: expected --reference FOLDER of real pictures, or "
            f"captions in its metadata.jsonl or metadata.csv, or in a NAME.txt beside NAME.png ({drawn.deaf})"
        )
    own = _looked(drawn, console)
    real = None if reference is None else _looked(reference, console)
    found = measured(own, drawn, real, config, arguments.batch, console)
    values = {name: estimate.to_json() for name, estimate in found.items()}
    if all(estimate.value is None for estimate in found.values()):
        reasons = dict.fromkeys(estimate.reason for estimate in found.values())
        told = [reason for reason in reasons if reason not in (NO_REFERENCE, drawn.deaf)]
        raise UserError(f"nothing could be measured: {'; '.join(told or reasons)}")
    against = "" if reference is None or reference.where == drawn.where else f" against {reference.where}"
    notes = [*drawn.notes, *_notes(own, drawn.captions, real)]
    if arguments.to is not None:  # before anything is said: whoever listens may leave
        write_json(at_home(arguments.to), values)
    tell(f"{drawn.where}{against}, with 95% intervals", found, notes, config.model.clip, console)
    if console.as_json:
        console.emit(values)
    return DONE


# ------------------------------------------------------------------------------------------------- what was given


def _given(folder: Path, part: Literal["drawn", "true"]) -> Given:
    """The pictures of a folder with their captions; of a run's folder those of a part that it kept."""
    if is_run(folder):
        return _kept(folder, part)
    files = named(folder)
    if not files:
        raise UserError(f"no pictures in {folder}, expected png, jpg, webp or bmp files, in sub-folders too")
    if part == "true":
        return Given(where=str(folder), files=files)
    exclusions: Counter[str] = Counter()
    try:
        told = _told_beside(folder, files, exclusions)
    except UserError as error:  # such as metadata without captions: what needs none is measured all the same
        return Given(where=str(folder), files=files, deaf=str(error))
    if has_metadata(folder) and (unnamed := files.keys() - told.keys()):
        exclusions["picture that it does not name, left out"] += len(unnamed)  # such as a sheet of them all
        files = {name: path for name, path in files.items() if name in told}
    told = {name: text for name, text in told.items() if text}
    exclusions["caption of no picture here"] += len(told.keys() - files.keys())
    notes = (f"captions of {folder}: {count} x {reason}" for reason, count in exclusions.items() if count)
    captions = {name: text for name, text in told.items() if name in files}
    deaf = "" if captions else NO_CAPTIONS
    return Given(where=str(folder), files=files, captions=captions, deaf=deaf, notes=tuple(notes))


def _told_beside(folder: Path, files: Mapping[str, Path], exclusions: Counter[str]) -> dict[str, str]:
    """The caption of each picture, "" where it has none, by its name: of those that the metadata names, where there is
    any, else by the NAME.txt beside each."""
    if has_metadata(folder):
        return {row.name: (*row.captions, "")[0] for row in rows_of(str(folder), exclusions)}
    return {name: (*caption_beside(path.with_suffix(".txt"))[0], "")[0] for name, path in files.items()}


def _kept(folder: Path, part: Literal["drawn", "true"]) -> Given:
    """One part of the pictures that a run kept of those that its own numbers are of."""
    samples = [(path, each) for each in schema.load(folder).samples if (path := getattr(each, part)) is not None]
    if not samples:
        raise UserError(f"the run {folder.name} kept no {part} pictures, expected a done run that draws")
    return Given(
        where=str(folder),
        files={path: folder / path for path, _ in samples},
        captions={path: each.prompt for path, each in samples if each.prompt},
        notes=(f"{folder.name} kept {len(samples)} {part} pictures one by one; its record's numbers are of all",),
    )


def _reference(arguments: JudgeArguments) -> Given | None:
    """The real pictures; None where there are none."""
    if arguments.reference is not None:
        return _given(at_home(arguments.reference), "true")
    return _given(arguments.place, "true") if is_run(arguments.place) else None


def _looked(given: Given, console: Console) -> Loose:
    """The pictures of these that can be used, with one warning about the others. UserError below LEAST of them."""
    with console.progress(len(given.files), f"reading {given.where}") as progress:
        looked = look(given.files, progress.advance)
    warning = looked.warning(given.where)
    if len(looked) < LEAST:
        told = f"{len(looked)} picture{'' if len(looked) == 1 else 's'} that can be used, expected at least {LEAST}"
        raise UserError(f"{given.where} has {told}{f' ({warning})' if warning else ''}")
    if warning:
        console.warn(warning)
    return looked


# ---------------------------------------------------------------------------------------------------- the numbers


def measured(
    own: Loose, given: Given, real: Loose | None, config: Config, batch: int, console: Console
) -> dict[str, Estimate]:
    """Every number of pictures, in the order to be shown; missing with its reason where it can't be had. given: whose
    captions they have."""
    found, device, captions = Measured(), device_here(), given.captions
    looks, fid = _names(distances(config.evaluate.extractor)), _names(FID)
    if real is None:
        found.lack({**looks, **fid}, NO_REFERENCE)
    else:
        near = partial(fidelity, own=own, real=real, batch=batch, seed=config.seed, console=console)

        def on_extractor() -> Mapping[str, Estimate]:
            evaluate = config.evaluate
            return near(open_extractor(evaluate.extractor, input_size=evaluate.extractor_input, device=device))

        def on_inception() -> Mapping[str, Estimate]:
            inception = inception_of(config, device)
            return as_fid(near(inception, by=distance_metrics), inception, fid, "--inception")

        found.attempt(looks, on_extractor, None)
        found.attempt(fid, on_inception, None)
    rows = [row for row, name in enumerate(own.names) if name in captions]
    if not rows:
        found.lack(CLIP, given.deaf or NO_CAPTIONS)
        return found.metrics
    names = [own.names[row] for row in rows]

    def fitting() -> Mapping[str, Estimate]:
        chosen = Files([own.files.paths[row] for row in rows])
        texts = [captions[name] for name in names]
        return clip_metrics(clip_of(config, device), chosen, texts, keys=names, seed=config.seed, batch=batch)

    found.attempt(CLIP, lambda: _told(fitting(), own), None)
    return found.metrics


def _names(names: Names) -> Names:
    """Those of a run without its VAE's, each with a distance that its null distance can be compared with."""
    found: dict[str, Any] = {}
    for name, told in names.items():
        if not name.startswith(("vae_", "null_")):
            beside = {} if name in NEIGHBOURS else {f"{name}{MATCHED}": told, f"null_{name}": told}
            found |= {name: told, **beside}
    return found


def fidelity(
    extractor: Extractor,
    *,
    own: Loose,
    real: Loose,
    batch: int,
    seed: int,
    console: Console,
    by: Callable[..., dict[str, Estimate]] = fidelity_metrics,
) -> dict[str, Estimate]:
    """What `by` gives of N pictures against all M of the reference, and a null distance.

    No picture of the reference is left to hold out against the whole of it. So the null distances are of held = min(N,
    M // 2) of its pictures against the other ones, parted at random, and `..._matched` are of as many of the pictures
    judged against the same ones.
    """
    with console.progress(len(own) + len(real), f"features of {extractor.name}") as progress:
        mine, theirs = (
            extract_each(extractor, each.files, sides=each.sides, batch=batch, advance=progress.advance)
            for each in (own, real)
        )
    found = by(mine, theirs, keys=own.names)
    held = min(len(mine), len(theirs) // 2)
    draws = np.random.default_rng(derive(seed, "judge", len(mine), len(theirs)))
    parted, chosen = draws.permutation(len(theirs)), np.sort(draws.permutation(len(mine))[:held])
    beside = distance_metrics(
        mine.of(chosen),
        theirs.of(np.sort(parted[held:])),
        theirs.of(np.sort(parted[:held])),
        keys=[own.names[row] for row in chosen],
    )
    ordered: dict[str, Estimate] = {}
    for name, estimate in found.items():
        if name.startswith(("null_", "vae_")):
            continue
        ordered[name] = estimate
        if name not in NEIGHBOURS:
            ordered |= {f"{name}{MATCHED}": beside[name], f"null_{name}": beside[f"null_{name}"]}
    return _told(ordered, own, real)


def _told(found: Mapping[str, Estimate], own: Loose, real: Loose | None = None) -> dict[str, Estimate]:
    """Estimates that say how many pictures of either set were left out or changed, and why."""
    told: dict[str, Any] = {}
    for which, looked in (("", own), ("reference_", real)):
        for what, reasons in (("excluded", looked.left_out), ("changed", looked.mended)) if looked else ():
            if reasons:
                told[which + what] = {reason: len(names) for reason, names in reasons.items()}
    return {name: replace(each, details={**each.details, **told}) for name, each in found.items()}


# ------------------------------------------------------------------------------------------------ what a person reads


def tell(title: str, found: Mapping[str, Estimate], notes: Sequence[str], clip: str, console: Console) -> None:
    """A table of the numbers, and under it what they are of, and what is missing. clip: as it was asked for."""
    known = {name: estimate for name, estimate in found.items() if estimate.value is not None}
    rows = [(name, written(each, unit=True), f"n {each.n:,}") for name, each in known.items()]
    console.table(title, rows)
    for note in (*notes, *_of_numbers(known, clip), *_missing(found)):
        console.info(note)


def _notes(own: Loose, captions: Mapping[str, str], real: Loose | None) -> Iterator[str]:
    """What is to be known of the pictures themselves."""
    sets = [("pictures judged", own), *([("reference", real)] if real else [])]
    sides = {what: _span(looked) for what, looked in sets}
    if len(set(sides.values())) > 1:
        told = ", ".join(f"{what} {span}" for what, span in sides.items())
        yield f"the sizes differ ({told} pixels), and how much an extractor enlarges or shrinks is part of a distance"
    for what, looked in sets:
        if looked.oblong:
            yield f"{what}: {looked.oblong} of {len(looked)} are not square, and their middle square was taken"
        if again := len(looked) - len(set(looked.digests)):
            yield f"{what}: {again} of {len(looked)} are another one again: intervals take all as independent"
    there = set(real.digests) if real else set()
    if known := sum(digest in there for digest in own.digests):
        yield f"{known} of {len(own)} pictures judged are, pixel for pixel, in the reference"
    if captions and (lacking := sum(name not in captions for name in own.names)):
        yield f"{lacking} of {len(own)} pictures judged have no caption, and CLIP leaves them out"


def _span(looked: Loose) -> str:
    low, high = min(looked.sides), max(looked.sides)
    return str(low) if low == high else f"{low} to {high}"


def _of_numbers(known: Mapping[str, Estimate], clip: str) -> Iterator[str]:
    """What the numbers are made by and how far they can be trusted."""
    for name, each in known.items():
        if name.endswith(MATCHED):
            yield NULL.format(held=each.n, rest=each.details["n_real"])
            break
    made = [each.details for each in known.values() if "feature_size" in each.details]
    for by in {details["extractor"]: details for details in made}.values():
        yield (
            f"features: {by['feature_size']} of {by['extractor']} (weights {by['weights']}; {by['resize']}; batch "
            f"{by['batch']})"
        )
    if poor := [name for name, each in known.items() if each.details.get("rank_deficient")]:
        yield f"{', '.join(poor)}: {RANK_DEFICIENT}"
    if (score := known.get("clip_score")) is not None:
        by = score.details
        yield f"CLIP: {by['model']} (weights {by['weights']}); with the next picture's caption {by['chance']:.3g}"
        if by["cut"]:
            yield f"CLIP reads {by['context']} tokens, and {by['cut']} captions are longer"
        if clip.startswith("shipped:"):
            yield OWN_CLIP
    for reason, names in _by_reason({n: each for n, each in known.items() if each.low is None}).items():
        yield f"no interval of {', '.join(names)}: {reason}"


def _missing(found: Mapping[str, Estimate]) -> Iterator[str]:
    """A sentence for each reason for which numbers are missing."""
    for reason, names in _by_reason({n: each for n, each in found.items() if each.value is None}).items():
        yield f"missing: {', '.join(names)}: {reason}"


def _by_reason(found: Mapping[str, Estimate]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, each in found.items():
        names.setdefault(each.reason, []).append(name)
    return names
