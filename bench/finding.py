"""Which run a person means: by its folder, the beginning of its name or key, or its approach. No torch."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench import store
from bench.errors import UserError, nearest
from bench.files import at_home, read_json
from reports import schema


@dataclass(frozen=True, kw_only=True)
class Found:
    """A run's folder with what it says of itself."""

    folder: Path
    approach: str
    key: str
    state: store.State | None = field(default=None)

    @property
    def done(self) -> bool:
        """Whether it is."""
        return self.state is not None and self.state.state == "done"


def runs(out: Path) -> list[Found]:
    """Every run under `out`, by name. What does not read as one is left out."""
    found = []
    for path in sorted(out.glob(f"*/{store.REQUEST}")):
        with suppress(UserError):
            found.append(_look(path.parent))
    return found


def _look(folder: Path) -> Found:
    values, state = read_json(folder / store.REQUEST), store.read_state(folder)
    try:
        return Found(folder=folder, approach=values["approach"], key=values["key"], state=state)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / store.REQUEST} is no request of a run: {type(error).__name__} {error}") from error


def damaged(out: Path) -> list[Path]:
    """Folders under `out` that hold a run which `runs` leaves out."""
    known = {run.folder for run in runs(out)}
    return [path.parent for path in sorted(out.glob(f"*/{store.REQUEST}")) if path.parent not in known]


def find(text: str, out: Path) -> Path:
    """The folder of the done run that `text` means: a folder, the beginning of one run's name or key under `out`, or an
    approach's name, for its latest. UserError that suggests the nearest, or says what is damaged, or not done."""
    folder = at_home(text)
    if os.path.isfile(folder / store.REQUEST):
        return _done(folder, store.read_state(folder))
    if os.path.isfile(folder / schema.FILE):
        raise UserError(f"{folder} holds a record alone, without what its run trained")
    known = runs(out)
    if text and not any(run.folder.name == text for run in known):
        begins = f"{text}-" if any(run.approach == text for run in known) else text
        for lost in (x for x in damaged(out) if x.name.startswith(begins) or x.name.endswith(f"-{text[:8]}")):
            try:
                _look(lost)
            except UserError as error:
                raise UserError(f"run {lost.name} is damaged, mend or delete {lost}: {error}") from error
    if not known and (alone := sorted(out.glob(f"*/{schema.FILE}"))):
        raise UserError(f"{out} holds records alone, such as {alone[0].parent.name}, without what their runs trained")
    if not known:
        raise UserError(f"no run in {out}: python -m bench run --out {out} makes some")
    if of_approach := [run for run in known if run.approach == text]:
        # Those that are done, and of these the latest, come first.
        latest = max(of_approach, key=lambda run: (run.done, run.state.ended if run.state else 0.0))
        return _done(latest.folder, latest.state)
    exact = [run for run in known if run.folder.name == text]
    fitting = exact or [run for run in known if run.folder.name.startswith(text) or run.key.startswith(text)]
    if not fitting or not text:
        choices = {run.folder.name for run in known} | {run.approach for run in known}
        raise UserError(f"no run '{text}' in {out}: {nearest(text, choices)}")
    if len(fitting) > 1:
        names = ", ".join(run.folder.name for run in fitting)
        raise UserError(f"'{text}' begins {len(fitting)} runs, expected one of: {names}")
    return _done(fitting[0].folder, fitting[0].state)


def _done(folder: Path, state: store.State | None) -> Path:
    if state is None or state.state != "done":
        what = f"{state.state}" if state else "not begun"
        raise UserError(f"run {folder.name} is {what}, expected a done one: `python -m bench run` goes on with it")
    return folder
