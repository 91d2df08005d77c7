"""Which pictures a report shows, by rule and never by hand: the first held-out prompts as they come, and prompts at
evenly spaced ranks from the best drawn to the worst. All contenders' pictures of a prompt stand side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.contenders import Contender
from reports.gather import Album, Picture
from reports.glossary import meaning
from reports.schema import Sample

FIRST, RANKED = 4, 6
SCORES = ("right_objects", "scene_accuracy", "clip_score")
"""What a picture's score may be: the first metric with a value for each item, in all contenders."""
LONGEST = 2000  # letters of a text that a report shows
BRIEF = 160  # letters that stand before a fold
PLAN = "plan"
NEAREST, DISTANCE = "nearest of ", "nearest_training_distance"
SHEETS = ("drawn", "described")
"""Contact sheets, which show again what is shown one by one."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What one contender made of one prompt, and wrote about the true picture."""

    label: str
    picture: Picture
    score: str
    caption: str | None
    plan: str
    trace: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One held-out prompt with its true picture, and all that was made of it."""

    key: str
    prompt: str
    true: Picture
    drawn: tuple[Drawn, ...]
    rank: str = ""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A picture of its own of one contender, such as a strip of the reverse process."""

    name: str
    label: str
    picture: Picture


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A drawn picture beside the training picture that is nearest to it."""

    label: str
    prompt: str
    drawn: Picture
    nearest: Picture
    key: str
    distance: str


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """All pictures of a report, and the rules that they were chosen by."""

    first: tuple[Shown, ...] = ()
    ranked: tuple[Shown, ...] = ()
    rule: str = ""
    strips: tuple[Strip, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    neighbour_rule: str = ""
    same_noise: bool = True


def pictures(contenders: Sequence[Contender], album: Album) -> Pictures:
    """The pictures of the first seed's runs."""
    keys = _common_keys(contenders)
    if not keys:
        return Pictures(strips=_strips(contenders, album))
    metric = _score_metric(contenders)
    scores = [_scores(contender, metric) if metric else {} for contender in contenders]
    first = tuple(_shown(key, contenders, scores, metric, album) for key in keys[:FIRST])
    ranked: tuple[Shown, ...] = ()
    rule = ""
    having = [score for score, contender in zip(scores, contenders, strict=True) if contender.record.samples]
    known = [key for key in keys if all(key in score for score in having)]
    if metric and len(known) > 1:
        means = {key: sum(score[key] for score in having) / len(having) for key in known}
        order = sorted(known, key=lambda key: (-means[key], keys.index(key)))
        places = spaced(len(order), RANKED)
        ranked = tuple(
            _shown(order[place], contenders, scores, metric, album, f"rank {place + 1} of {len(order)}")
            for place in places
        )
        rule = (
            f"{len(places)} of {len(order)} prompts, at evenly spaced ranks of {meaning(metric).title} averaged over "
            "the contenders, from the best to the worst; equals stand in their order in the data"
        )
        if means[order[0]] == means[order[-1]]:
            rule += f" (here all have the same, {means[order[0]]:.2g})"
    return Pictures(
        same_noise=len({contender.record.identical.noise for contender in contenders}) == 1,
        first=first,
        ranked=ranked,
        rule=rule,
        strips=_strips(contenders, album),
        **_neighbours(contenders, album),
    )


def spaced(count: int, wanted: int) -> list[int]:
    """Up to `wanted` places from 0 to count - 1, evenly spaced, ends included."""
    if count <= wanted:
        return list(range(count))
    return [round(i * (count - 1) / (wanted - 1)) for i in range(wanted)]


def _with_pictures(contender: Contender) -> list[Sample]:
    return [sample for sample in contender.record.samples if sample.drawn or sample.true]


def _common_keys(contenders: Sequence[Contender]) -> list[str]:
    """Keys of the prompts that every contender with samples has a picture of, in the order of the data. Two
    datasets may have a key for pictures of their own: then prompts differ."""
    having = [contender for contender in contenders if contender.record.samples]
    if not having:
        return []
    common = set.intersection(*({(sample.key, sample.prompt) for sample in _with_pictures(c)} for c in having))
    return [sample.key for sample in having[0].record.samples if (sample.key, sample.prompt) in common]


def _score_metric(contenders: Sequence[Contender]) -> str | None:
    for name in SCORES:
        if all(_scores(c, name) for c in contenders if c.record.samples):
            return name
    return None


def _scores(contender: Contender, name: str) -> dict[str, float]:
    """key -> a picture's score; empty where the record has no number for each sample."""
    run = contender.record
    details = run.metrics[name].details if name in run.metrics else {}
    values = details.get("per_item")
    if not isinstance(values, list) or len(values) > len(run.samples):
        return {}
    places = details.get("looked_at", range(len(values)))
    return {run.samples[i].key: float(v) for i, v in zip(places, values, strict=True) if i < len(run.samples)}


def _shown(
    key: str,
    contenders: Sequence[Contender],
    scores: Sequence[Mapping[str, float]],
    metric: str | None,
    album: Album,
    rank: str = "",
) -> Shown:
    drawn, prompt, true = [], "", Picture(reason="the record names no picture")
    for contender, score in zip(contenders, scores, strict=True):
        sample = next((s for s in contender.record.samples if s.key == key), None)
        if sample is None:
            continue
        run = contender.runs[0]
        if not true.data:
            prompt, true = sample.prompt, album.picture(run, sample.true)
        plan = sample.trace.get(PLAN, "")
        drawn.append(
            Drawn(
                label=contender.label,
                picture=album.picture(run, sample.drawn),
                score=_score(score[key], metric) if key in score else "",
                caption=sample.caption,
                plan=plan if isinstance(plan, str) else "",
                trace=tuple((name, _spelled(value)) for name, value in sample.trace.items() if name != PLAN),
            )
        )
    return Shown(key=key, prompt=prompt, true=true, drawn=tuple(drawn), rank=rank)


def _score(value: float, metric: str | None) -> str:
    return f"CLIP score {value:.0f}" if metric == "clip_score" else f"{value:.0%} right"


def _spelled(value: Any) -> str:
    """A trace's value in a line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(_spelled(item) for item in value[:20]) + (" ..." if len(value) > 20 else "")
    if isinstance(value, dict):
        return "; ".join(f"{name} {_spelled(item)}" for name, item in list(value.items())[:20])
    return "–" if value in (None, "") else str(value)[:LONGEST]


def _strips(contenders: Sequence[Contender], album: Album) -> tuple[Strip, ...]:
    """Sheets that are no contact sheets; one that all contenders have the same stands once, for all."""
    names = dict.fromkeys(
        n for c in contenders for n in c.record.sheets if n not in SHEETS and not n.startswith(NEAREST)
    )
    found = []
    for name in names:
        having = [c for c in contenders if name in c.record.sheets]
        made = [(c, album.picture(c.runs[0], c.record.sheets[name], largest=1024)) for c in having]
        if len(made) > 1 and len({picture.data for _, picture in made}) == 1:
            found.append(Strip(name=name, label="", picture=made[0][1]))
        else:
            found += [Strip(name=name, label=c.label, picture=picture) for c, picture in made]
    return tuple(found)


def _neighbours(contenders: Sequence[Contender], album: Album) -> dict[str, Any]:
    """Drawn pictures beside their nearest training pictures, of those that a run kept (sheets `nearest of KEY`)."""
    found, rule = [], ""
    for contender in contenders:
        run = contender.runs[0]
        samples = {sample.key: (place, sample) for place, sample in enumerate(run.record.samples)}
        estimate = run.record.metrics.get(DISTANCE)
        details = estimate.details if estimate is not None else {}
        keys, distances = details.get("nearest") or [], details.get("per_item") or []
        looked_at = details.get("looked_at", range(len(distances)))
        found_at = {place: number for number, place in enumerate(looked_at)}
        for name, path in run.record.sheets.items():
            if not name.startswith(NEAREST) or name.removeprefix(NEAREST) not in samples:
                continue
            place, sample = samples[name.removeprefix(NEAREST)]
            number = found_at.get(place, len(distances))
            far = f"{distances[number]:.3g}" if number < len(distances) else ""
            found.append(
                Neighbour(
                    label=contender.label,
                    prompt=sample.prompt,
                    drawn=album.picture(run, sample.drawn),
                    nearest=album.picture(run, path),
                    key=str(keys[number]) if number < len(keys) else "its nearest training picture",
                    distance=far,
                )
            )
    if found:
        rule = (
            "Each drawn picture above the training picture that is nearest to it: the first few, and those that are "
            "nearest of all. A copy would look the same twice."
        )
    return {"neighbours": tuple(found), "neighbour_rule": rule}
