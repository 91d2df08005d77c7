"""The speed gate: every timed case of this tree against the base's, in pairs; a suspicion is measured again.
No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.console import Console, Progress
from bench.gates.findings import Finding, Status, wanted
from bench.gates.judge import unseen
from bench.gates.pairs import BaseError, Compared, compare, halfway
from bench.gates.thresholds import Thresholds
from bench.gates.workers import Worker, WorkerError

Outcome = Compared | WorkerError | BaseError


def judged(
    head: Path,
    base: Path | None,
    why: str,
    expected: Sequence[str],
    groups: Collection[str],
    limits: Thresholds,
    console: Console,
) -> list[Finding]:
    """A finding a name. head, base: the trees; without a base nothing is judged, and `why` says why there is none; that
    every case can still be run is judged all the same."""
    with running(head, base, limits) as workers:
        seen = [name for name in workers[-1].call("names")["names"] if wanted(name, groups)]
        findings = unseen("speed", expected, seen, groups)
        known = [name for name in expected if name in seen]
        if base is None:
            said = f"there is no base: {why}"
            return [*findings, *(Finding(kind="speed", name=name, status="not judged", said=said) for name in known)]
        with console.progress(len(known), "speed, head against base") as progress:
            first = measure(workers, known, limits.pairs, halfway(limits.limit), limits, progress)
    again = fresh(head, base, [name for name in known if _suspicious(first[name], limits)], limits, console)
    return [*findings, *(finding(name, first[name], again.get(name), limits) for name in known)]


def fresh(head: Path, base: Path, suspected: Sequence[str], limits: Thresholds, console: Console) -> dict[str, Outcome]:
    """Fresh pairs of what is suspected, in fresh processes; and more of them, with those before, while the limit lies
    in their interval and there are rounds left."""
    found: dict[str, Outcome] = {}
    for _ in range(limits.rounds):
        if not suspected:
            break
        console.info(f"gate: measured again, by fresh pairs: {', '.join(suspected)}")
        with (
            running(head, base, limits) as workers,
            console.progress(len(suspected), "fresh pairs in fresh processes") as progress,
        ):
            outcomes = measure(workers, suspected, limits.pairs_again, limits.limit, limits, progress)
            for name, outcome in outcomes.items():
                before = found.get(name)
                if isinstance(before, Compared) and isinstance(outcome, Compared):
                    outcome = before.with_more(outcome)
                found[name] = outcome
        suspected = [name for name in suspected if _undecided(found[name], limits)]
    return found


@contextmanager
def running(head: Path, base: Path | None, limits: Thresholds) -> Iterator[list[Worker]]:
    """New workers: the base's, where there is one, and last the head's; they start side by side."""
    with ExitStack() as stack:
        trees = [tree for tree in (base, head) if tree is not None]
        workers = [stack.enter_context(Worker(tree, limits.threads)) for tree in trees]
        for worker in workers:
            worker.ask("hello")
        for worker in workers:
            worker.told()
        yield workers


def measure(
    workers: Sequence[Worker], names: Sequence[str], pairs: int, about: float, limits: Thresholds, progress: Progress
) -> dict[str, Outcome]:
    """Pairs of each case by the base's worker and the head's, at most so many and until it is clear on which side of
    `about` the ratio is; or what stood in the way."""
    base, head = workers
    found: dict[str, Outcome] = {}
    for name in names:
        try:
            found[name] = compare(base, head, name, pairs=pairs, seconds=limits.seconds, about=about)
        except (BaseError, WorkerError) as error:
            found[name] = error
        progress.advance(1, name)
    return found


def _suspicious(found: Outcome, limits: Thresholds) -> bool:
    return isinstance(found, Compared) and found.suspicious(limits.limit)


def _undecided(found: Outcome, limits: Thresholds) -> bool:
    return isinstance(found, Compared) and found.undecided(limits.limit)


def finding(
    name: str,
    first: Outcome,
    again: Outcome | None,
    limits: Thresholds,
) -> Finding:
    """The verdict of a case. A suspicion is judged by the fresh pairs alone: the first ones were chosen for being
    slow."""
    if isinstance(first, WorkerError):
        return Finding(kind="speed", name=name, status="missing", said=f"can't be run: {first}")
    if isinstance(first, BaseError):
        return Finding(kind="speed", name=name, status="not judged", said=f"the base can't run it: {first}")
    if again is None:
        said = f"{len(first.ratios)} pairs, limit {limits.limit:g}"
        return Finding(kind="speed", name=name, status="pass", said=said, ratio=first.told, seconds=first.seconds)
    if not isinstance(again, Compared):
        return Finding(kind="speed", name=name, status="missing", said=f"can't be run again: {again}")
    worse = again.slower(limits.limit)
    said = f"{len(again.ratios)} fresh pairs, limit {limits.limit:g}; the first ones said {first.median:.3f}"
    unclear = not worse and again.median > limits.limit and again.undecided(limits.limit)
    status: Status = "regression" if worse else "refused" if unclear else "pass"
    said += ": above it, and too noisy to be told from 1" if unclear else ""
    return Finding(kind="speed", name=name, status=status, said=said, ratio=again.told, seconds=again.seconds)
