"""What people read while something runs: progress bars and tables on a terminal, plain lines otherwise. Whatever text
is in it, of a record or of a model, none commands the terminal.
rich is imported only when a terminal is there to draw on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from bench.printable import printable

INTERVAL = 10.0  # seconds between plain lines of progress


class Progress:
    """The count of one piece of long work."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more are done. note: a few words or numbers to show beside the count, such as a loss."""


class Console:
    """Human text goes to stdout, or to stderr where stdout carries JSON; warnings and progress always go to stderr."""

    def __init__(self, *, as_json: bool = False, interval: float = INTERVAL) -> None:
        self.as_json = as_json
        self.interval = interval

    @property
    def _text(self) -> TextIO:
        return sys.stderr if self.as_json else sys.stdout

    def info(self, text: str = "") -> None:
        """One line for the reader."""
        print(printable(text), file=self._text, flush=True)

    def warn(self, text: str) -> None:
        """One line on stderr that something is not as it should be."""
        print(f"warning: {printable(text)}", file=sys.stderr, flush=True)

    def emit(self, value: Any) -> None:
        """The one JSON value of a command run with --json, on stdout."""
        print(json.dumps(value, indent=2, sort_keys=True, allow_nan=False), flush=True)

    def table(self, title: str, rows: Sequence[Sequence[str]]) -> None:
        """Rows of cells under a title: a rich table on a terminal, columns parted by two spaces otherwise."""
        title, rows = printable(title), [[printable(cell) for cell in row] for row in rows]
        if not self._text.isatty():
            self.info(title)
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                self.info("  " + "  ".join(cells).rstrip())
            return
        from rich import box
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        title_ = Text(title, style="bold")
        table = Table(title=title_, title_justify="left", show_header=False, box=box.SIMPLE_HEAD)
        for index in range(len(rows[0]) if rows else 0):
            table.add_column(no_wrap=index == 0, style="cyan" if index == 0 else "")
        for row in rows:
            table.add_row(*map(Text, row))
        RichConsole(file=self._text).print(table)

    @contextmanager
    def progress(self, total: int, description: str, *, done: int = 0) -> Iterator[Progress]:
        """Count work up to `total`, from `done` on (a resumed run's): a bar on a terminal, otherwise a line at most
        every `interval` seconds with the share, the rate and the time left, and one at the end."""
        if sys.stderr.isatty():
            with _bar(total, description, done) as bar:
                yield bar
            return
        lines = _Lines(total, description, done, self.interval)
        try:
            yield lines
        finally:  # the line that an interrupted run ends with says how far it came
            lines.end()


class _Lines(Progress):
    """Progress as plain lines on stderr."""

    def __init__(self, total: int, description: str, done: int, interval: float) -> None:
        self.total, self.description, self.interval = total, description, interval
        self.first = self.done = done
        self.note = ""
        self.start = self.said = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """See Progress."""
        self.done += steps
        self.note = note or self.note
        now = time.monotonic()
        if now - self.said >= self.interval:
            self.said = now
            self._say(now)

    def end(self) -> None:
        """The last line."""
        self._say(time.monotonic())

    def _say(self, now: float) -> None:
        seconds = max(now - self.start, 1e-9)
        rate = (self.done - self.first) / seconds
        share = f"{100 * self.done / self.total:.0f}%" if self.total else "-"
        left = f", {clock((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        note = f"  {self.note}" if self.note else ""
        line = f"{self.description}: {self.done}/{self.total} {share}, {rate:.3g}/s, {clock(seconds)}{left}{note}"
        print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def _bar(total: int, description: str, done: int) -> Iterator[Progress]:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    with RichProgress(*columns, console=RichConsole(stderr=True)) as drawn:
        task = drawn.add_task(printable(description), total=total, completed=done, note="")

        class Bar(Progress):
            """Progress as a bar."""

            def advance(self, steps: int = 1, note: str = "") -> None:
                """See Progress."""
                if note:
                    drawn.update(task, advance=steps, note=printable(note))
                else:
                    drawn.advance(task, steps)

        yield Bar()


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, or hours.

    >>> clock(75), clock(7300)
    ('1:15', '2:01:40')
    """
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
