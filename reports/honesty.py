"""What a reader must know before believing a report's answer, made from the records by rule."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import combinations

from metrics.statistics import COUNTED
from reports.contenders import Contender, Judge, brief, items_each, unlike
from reports.gather import Gathered
from reports.glossary import counted, known, listed, meaning
from reports.looks import looks, said_of
from reports.schema import TIMED_UNITS, has
from reports.tables import main_names, names_of

CLIP, SHIPPED_CLIP = "clip_score", "clip-tiny"
RATE = "learning_rate"


def marks_of_honesty(contenders: Sequence[Contender], gathered: Gathered, judge: Judge) -> list[str]:
    """The embedded models, n, the seeds, the learning rates, the comparisons."""
    told = []
    names = names_of(contenders)
    presets = {str(c.record.config.get("preset", "")) for c in contenders}
    told += [known()["presets"][preset] for preset in sorted(presets) if preset in known()["presets"]]
    told += _seeds(contenders)
    told += _rates(contenders)
    told += _unusual(contenders)
    for pattern, sentence in known()["embedded"].items():
        if sentence and any(fnmatchcase(name, pattern) for name in names):
            told.append((pattern == CLIP and _other_clip(contenders)) or sentence)
    told += _aligned(contenders)
    main = main_names(contenders)
    told += _counts(contenders, main)
    told += _unlike_clocks(contenders, names)
    if (seen := looks(contenders, judge, main)).pairs:
        told.append(said_of(seen))
    if gathered.others or gathered.refused:
        lost = [counted(len(gathered.others), "run") + " not done"] if gathered.others else []
        lost += [counted(len(gathered.refused), "record") + " refused"] if gathered.refused else []
        told.append(f"{listed(lost)}: see below.")
    return told


def _other_clip(contenders: Sequence[Contender]) -> str:
    """Whose scores they are, where not all are the shipped CLIP's; "" otherwise."""
    having = [c.record.metrics[CLIP] for c in contenders if has(c.record.metrics, CLIP)]
    models = sorted({str(each.details.get("model", SHIPPED_CLIP)) for each in having})
    return "" if models == [SHIPPED_CLIP] else f"CLIP scores are by {listed(models)}: compare them with the same alone."


def _aligned(contenders: Sequence[Contender]) -> list[str]:
    """Who was trained towards the features that its pictures are judged by."""
    told: dict[str, list[str]] = {}
    for each in contenders:
        encoder = each.record.config.get("model", {}).get("encoder", "")
        if "encoder" in each.record.budgets.borrowed and has(each.metrics, f"fd_{encoder}"):
            told.setdefault(encoder, []).append(each.label)
    return [
        f"{listed(labels)} {'was' if len(labels) == 1 else 'were'} trained towards features of {encoder}, on which FD "
        "and KID are taken, too, which flatters them: trust other numbers of pictures more."
        for encoder, labels in told.items()
    ]


def _seeds(contenders: Sequence[Contender]) -> list[str]:
    """One seed: intervals cover sampling, not training."""
    if not contenders:
        return []
    one = [c.label for c in contenders if len(c.runs) == 1]
    more = [f"{c.label} ({len(c.runs)})" for c in contenders if len(c.runs) > 1]
    told = []
    if one:
        who = "Every contender was" if not more else f"{listed(one)} {'was' if len(one) == 1 else 'were'}"
        told.append(
            f"{who} trained with one seed: intervals cover the sampling of what was measured, not the training. "
            "Another seed may change the order."
        )
    if more:
        told.append(
            f"Means over seeds for {listed(more)}: their intervals cover other seeds, with Student's t over so few, "
            "and other held-out items."
        )
    return told


def _rates(contenders: Sequence[Contender]) -> list[str]:
    """Whose learning rate is whose, where they differ: the order of two may be that of their rates."""
    told: dict[str, list[str]] = {}
    having = [(rate, each.label) for each in contenders if isinstance(rate := each.record.settings.get(RATE), float)]
    for rate, label in sorted(having, key=lambda one: one[0]):
        told.setdefault(brief(rate), []).append(label)
    if len(told) < 2:
        return []
    which = "; ".join(f"{rate} for {listed(labels)}" for rate, labels in told.items())
    return [f"Learning rates are not equal, and at other rates the order may be another: {which}."]


def _unusual(contenders: Sequence[Contender]) -> list[str]:
    """Settings that are not an approach's defaults, and that no label tells."""
    told = []
    for each in contenders:
        changed = [name for name in each.record.provenance.get("settings_changed", ()) if name in each.record.settings]
        unsaid = [name for name in changed if f"settings.{name}" not in each.named]
        if parts := [f"{name} {brief(each.record.settings[name])}" for name in unsaid]:
            told.append(f"{each.label} with {listed(parts)}")
    return [f"Not an approach's defaults: {'; '.join(told)}."] if told else []


def _counts(contenders: Sequence[Contender], names: Sequence[str]) -> list[str]:
    """How many items the main numbers rest on."""
    told: dict[int, list[str]] = {}
    for name in names:
        having = [c.metrics[name] for c in contenders if has(c.metrics, name)]
        clock = bool(having) and having[0].unit in TIMED_UNITS
        if having and not clock and all(e.reason != COUNTED and e.low is not None for e in having):
            least = min(items_each(e) for e in having)
            told.setdefault(least, []).append(meaning(name).title)
    parts = [f"{n:,} {'item' if n == 1 else 'items'} for {listed(titles)}" for n, titles in sorted(told.items())]
    timed = any(has(c.metrics, name) and c.metrics[name].unit in TIMED_UNITS for c in contenders for name in names)
    more = " Time and memory rest on no held-out items." if timed else ""
    return [f"The numbers rest on {listed(parts)}.{more}"] if parts else []


def _unlike_clocks(contenders: Sequence[Contender], names: Sequence[str]) -> list[str]:
    """Which times and counters stand side by side though they were taken unlike, and are not compared."""
    told: dict[str, list[str]] = {}
    for name in names:
        having = [c for c in contenders if has(c.metrics, name)]
        if having and having[0].metrics[name].unit in TIMED_UNITS:
            for why in dict.fromkeys(why for pair in combinations(having, 2) if (why := unlike(*pair, name))):
                told.setdefault(why, []).append(meaning(name).title)
    return [f"Not compared, because they were {why}: {listed(titles)}." for why, titles in told.items()]
