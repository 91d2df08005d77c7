"""What a terminal is told: letters, and no command of a text that somebody else wrote."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import cli
from bench.console import Console, Progress
from bench.errors import UserError
from bench.printable import MARK, clean, printable

EVIL = "\x1b]0;title\x07 \x1b[31mred\x9b2J\r\x08\x7f [/bold]"
ORDERS = [chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))]


@pytest.fixture
def orders(capsys: pytest.CaptureFixture[str]) -> Any:
    """What orders to a terminal were printed since."""
    return lambda: sorted(set(ORDERS) & set("".join(capsys.readouterr())))


@given(st.text())
def test_printable_text_is_the_text_without_orders(text: str):
    shown = printable(text)
    assert len(shown) == len(text) and not set(ORDERS) & set(shown)
    assert all(new == (MARK if old in ORDERS else old) for old, new in zip(text, shown, strict=True))
    assert set(ORDERS).isdisjoint(clean(text)) and len(clean(text)) == len(text)
    clean(text).encode()  # without lone surrogates, which UTF-8 can't hold


def test_the_line_s_end_and_the_tab_are_kept():
    assert printable("a\tb\nc") == clean("a\tb\nc") == "a\tb\nc"


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_that_is_said_commands_the_terminal(orders: Any, capsys: pytest.CaptureFixture[str], as_json: bool):
    console = Console(as_json=as_json, interval=0)
    console.info(EVIL)
    console.warn(EVIL)
    console.table(EVIL, [(EVIL, "b"), ("c", EVIL)])
    with console.progress(2, EVIL) as bar:
        bar.advance(1, note=EVIL)
    assert orders() == []
    console.emit({EVIL: EVIL})  # JSON spells them
    told = capsys.readouterr().out
    assert json.loads(told) == {EVIL: EVIL} and not set(ORDERS) & set(told)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_neither_does_what_is_drawn_on_one(monkeypatch: pytest.MonkeyPatch):
    """There rich writes its own orders: those of the texts are not among them, nor are their brackets taken as its."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Terminal())
    console = Console()
    console.table(EVIL, [(EVIL, "b"), ("c", EVIL)])
    bar: Progress
    with console.progress(2, EVIL) as bar:
        bar.advance(1, note=EVIL)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, Terminal)
        drawn = stream.getvalue()
        assert not set("\x07\x9b\x08\x7f") & set(drawn) and "\x1b]" not in drawn and "[/bold]" in drawn


@pytest.mark.parametrize("error", [UserError(EVIL), ValueError(EVIL), PermissionError(13, "no", EVIL)])
def test_no_error_commands_the_terminal(orders: Any, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def fails(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_dispatch", fails)
    assert cli.main(["list"]) in (2, 3)
    assert orders() == []


def test_a_folder_s_name_is_told_without_its_orders(tmp_path: Path):
    folder = tmp_path / "a\x1b[2Jb"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "bench", "report", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "a\ufffd[2Jb" in done.stderr and "\x1b" not in done.stderr + done.stdout
