"""What was the same for all and what was not, what was spent, how to run it again, and what did not come to an end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

from bench.plain import flat
from metrics.statistics import Estimate
from reports.contenders import Contender
from reports.gather import Run
from reports.glossary import meaning, written
from reports.schema import Identical

SAME = {
    "data": "pictures and captions",
    "text": "text corpus",
    "vae": "VAE weights",
    "language_model": "language model weights",
    "batches": "training batches, noise and times",
    "noise": "noise that pictures are drawn from",
    "diffusion": "diffusion",
    "kernels": "kernels",
    "details": "data details",
}
"""Fields of a record's `identical`, in words."""
BESIDE = {"lm": "language model's config and tokenizer", "vae": "VAE's config"}
"""Models whose files beside the weights are in a run's key, in words."""
OF_THE_SEED = ("batches", "noise")
"""Fields that every seed has its own of: a run is compared with the others of its seed."""
NEVER_FATAL = ("kernels", "details")
"""Fields whose difference is no unfairness by itself."""
BUDGETS = (
    "parameters", "parameters_trained", "parameters_active", "training_flops", "training_flops_model", "images_seen",
    "training_steps", "training_seconds", "parameters_borrowed",
)  # fmt: skip
PLACES = {
    "sources": "sources (hash)", "python": "Python", "system": "system", "cpu": "processor",
    "cores": "cores", "threads": "threads", "devices": "devices", "version": "version", "packages": "packages",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One thing that a fair comparison asks to be the same. value: where it is; else who has what."""

    name: str
    same: bool
    value: str
    by: tuple[tuple[str, str], ...] = ()
    fatal: bool = True

    @property
    def main(self) -> bool:
        """Whether a reader should see it at once."""
        return self.fatal or not self.same


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one contender spent, as written numbers, and what it borrowed."""

    label: str
    cells: tuple[str, ...]
    borrowed: str


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """How to run one run again. own: a hash of the package that the approach came from, "" for ours."""

    name: str
    label: str
    command: str
    commit: str
    dirty: bool
    seed: int
    own: str = ""


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A run that is not done, and what it left."""

    name: str
    approach: str
    status: str
    reason: str
    left: str


def identical(contenders: Sequence[Contender]) -> list[Shared]:
    """Every field of the records' `identical`, leaf by leaf, over all runs; what a seed changes, over the runs of each
    seed. Contenders of which two have no seed in common differ in the latter."""
    runs = [(contender, run) for contender in contenders for run in contender.runs]
    found = []
    for item in fields(Identical):
        leaves: dict[str, dict[tuple[str, int], str]] = {}
        for contender, run in runs:
            value = getattr(run.record.identical, item.name)
            for name, leaf in flat(value, item.name) if isinstance(value, Mapping) else [(item.name, value)]:
                if ".reasons." not in name:  # why a kernel was taken, in words
                    leaves.setdefault(name, {})[contender.label, run.record.seed] = _whole(leaf)
        found += [_shared(name, values, item.name, contenders) for name, values in leaves.items()]
    return found + _files(runs, contenders)


def _files(runs: Sequence[tuple[Contender, Run]], contenders: Sequence[Contender]) -> list[Shared]:
    """Configs and tokenizers of the frozen models, where every run's key holds them."""
    found = []
    for name, words in BESIDE.items():
        keys = [run.record.provenance.get("key") for _, run in runs]
        parts = [key.get(f"model.{name} files") if isinstance(key, dict) else None for key in keys]
        if runs and all(isinstance(part, str) for part in parts):
            values = {(c.label, run.record.seed): str(part) for (c, run), part in zip(runs, parts, strict=True)}
            found.append(_shared(words, values, words, contenders))
    return found


def _shared(name: str, values: Mapping[tuple[str, int], str], field: str, contenders: Sequence[Contender]) -> Shared:
    every = {(c.label, seed): values.get((c.label, seed), "") for c in contenders for seed in c.seeds}
    if field in OF_THE_SEED:
        groups = [{v for (_, of), v in every.items() if of == seed} for seed in dict.fromkeys(of for _, of in every)]
        apart = any(not set(a.seeds) & set(b.seeds) for a, b in combinations(contenders, 2))
        same, value = not apart and all(len(group) == 1 for group in groups), "the same within each seed"
    else:
        same, value = len(set(every.values())) == 1, ""
    words = SAME.get(field, field) if name == field else f"{SAME[field]}: {name.partition('.')[2]}"
    if same:
        value = _leaf(next(iter(every.values()))) if len(set(every.values())) == 1 else value
        return Shared(name=words, same=True, value=value, fatal=field not in NEVER_FATAL)
    several = {c.label for c in contenders if len(c.runs) > 1}
    shown = {value: _leaf(value) for value in every.values()}
    if len(set(shown.values())) < len(shown):  # what differs is not shown alike
        shown = {value: value or "–" for value in shown}
    by = tuple((f"{who}, seed {seed}" if who in several else who, shown[value]) for (who, seed), value in every.items())
    return Shared(name=words, same=False, value="", by=by, fatal=field not in NEVER_FATAL)


def _whole(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _leaf(value: str) -> str:
    """As a page shows it: of a long hash its beginning."""
    if len(value) > 16 and " " not in value and not value.startswith(("hub:", "{", "[")):
        return f"{value[:16]}…"
    return value[:160] or "–"


def unfair(rows: Sequence[Shared]) -> list[str]:
    """Names of what should have been the same and was not."""
    return [row.name for row in rows if not row.same and row.fatal]


def budgets(contenders: Sequence[Contender]) -> tuple[tuple[str, ...], list[Budget]]:
    """A heading, and a row a contender: the means over its seeds."""
    every = [contender.metrics for contender in contenders]
    names = [name for name in BUDGETS if any(name in estimates for estimates in every)]
    missing = Estimate.missing("not known")
    rows = [
        Budget(
            label=contender.label,
            cells=tuple(written(estimates.get(name, missing), unit=True) for name in names),
            borrowed=", ".join(
                f"{part.replace('_', ' ')} {written(Estimate.counted(float(count), unit='parameters'), unit=True)}"
                for part, count in contender.record.budgets.borrowed.items()
            )
            or "–",
        )
        for contender, estimates in zip(contenders, every, strict=True)
    ]
    return tuple(meaning(name).title for name in names), rows


def reruns(contenders: Sequence[Contender]) -> list[Rerun]:
    """The command, commit and seed of every run."""
    return [_rerun(contender.label, run) for contender in contenders for run in contender.runs]


def _rerun(label: str, run: Run) -> Rerun:
    commit, dirty = commit_of(run.record.provenance)
    key = run.record.provenance.get("key")
    return Rerun(
        name=run.record.name,
        label=label,
        command=command_of(run.record.provenance),
        commit=commit,
        dirty=dirty,
        seed=run.record.seed,
        own=str(key.get("foreign sources") or "")[:16] if isinstance(key, Mapping) else "",
    )


def command_of(provenance: Mapping[str, Any]) -> str:
    """The command of a record, as a shell takes it."""
    command = provenance.get("command")
    return shlex.join(map(str, command)) if isinstance(command, list) and command else "not recorded"


def commit_of(provenance: Mapping[str, Any]) -> tuple[str, bool]:
    """The commit of a record, or why there is none; and whether there were uncommitted changes."""
    commit = provenance.get("commit")
    known = commit if isinstance(commit, dict) else {}
    return str(known.get("id") or known.get("reason") or "not recorded"), bool(known.get("dirty"))


def surroundings(provenances: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Machine and packages, in words; where records differ, each value that one had."""
    found = []
    for key, words in PLACES.items():
        values = dict.fromkeys(_worded(provenance[key]) for provenance in provenances if key in provenance)
        if values:
            found.append((words, " / ".join(values)))
    return found


def _worded(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_worded(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_worded, value)) or "none"
    return str(value)


def unfinished(runs: Sequence[Run]) -> list[Unfinished]:
    """Runs that are not done, with what they left behind."""
    return [
        Unfinished(
            name=run.record.name,
            approach=run.record.approach,
            status=run.record.status,
            reason=run.record.reason or "no reason was recorded",
            left=_left(run),
        )
        for run in runs
    ]


def _left(run: Run) -> str:
    parts = [name for name in ("metrics", "curves", "samples") if getattr(run.record, name)]
    return ", ".join(parts) if parts else "no numbers"


def notes(contenders: Sequence[Contender]) -> list[tuple[str, str]]:
    """What the records note about themselves: (who, what)."""
    told: dict[str, list[str]] = {}
    for contender in contenders:
        for note in dict.fromkeys(note for run in contender.runs for note in run.record.notes):
            told.setdefault(note, []).append(contender.label)
    return [("all" if len(who) == len(contenders) > 1 else ", ".join(who), note) for note, who in told.items()]
