"""Prompts from a file, and the list of what was drawn from them. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import whole_characters, write_text

STDIN = "-"
SUFFIXES = (".txt", ".jsonl")
FIELDS = ("prompt", "text", "caption")
"""Where a line of .jsonl has its prompt: the first of these that holds words. What `write` lists has a number as
"prompt"."""
METADATA = "metadata.jsonl"


def check(path: Path) -> None:
    """UserError where no prompts can be read from a file. Standard input is judged when it is read."""
    if str(path) != STDIN:
        read(path)


def read(path: Path) -> list[str]:
    """The prompts of a file, or of standard input for "-": a line each, blank ones left out; of .jsonl the field that
    holds one. UserError where there are none, or a line has none."""
    kind, name = (".txt", "standard input") if str(path) == STDIN else (path.suffix.lower(), str(path))
    if kind not in SUFFIXES:
        raise UserError(f"--prompts {path}: expected a file named {' or '.join(SUFFIXES)}, or - for standard input")
    try:
        text = (sys.stdin.buffer.read() if str(path) == STDIN else path.read_bytes()).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"--prompts {path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts {path} can't be read: {error}") from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    filled = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    found = [line if kind == ".txt" else _prompt(line, f"{name}, line {number}") for number, line in filled]
    if not found:
        raise UserError(f"{name} has no prompts: expected one a line")
    return found


def write(folder: Path, files: Sequence[Path], prompts: Sequence[str], *, count: int, how: Mapping[str, Any]) -> Path:
    """List pictures beside them, as the dataset `folder` reads it, with what else is needed to draw each again: `how`,
    the same for all, and by the file's number its place. prompt: the number of the prompt, from 0, each having `count`
    pictures."""
    rows = [
        {"file_name": file.name, "text": text, "prompt": number // count, **how}
        for number, (file, text) in enumerate(zip(files, prompts, strict=True))
    ]
    write_text(folder / METADATA, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return folder / METADATA


def _prompt(line: str, place: str) -> str:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    found = [row[name] for name in FIELDS if isinstance(row.get(name), str)] if isinstance(row, dict) else []
    if not found:
        raise UserError(f"{place}: expected a JSON object with one of {', '.join(FIELDS)}, a text")
    return whole_characters(found[0])
