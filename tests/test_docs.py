"""What the pages tell a reader to type is understood, and what they link to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from bench import cli, published
from bench.registry import at

ROOT = Path(__file__).parents[1]
WRITTEN = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
OF_RECORDS = (
    "report.md",
    *(f"{name}.md" for name in published.names()),
)  # pages that a report writes: the commands of runs of their time
ELSEWHERE = ("your-models.md", "your-approach.md")  # tests of their own run what they tell
FENCED = re.compile(r"^```\w*\n(.*?)^```|((?:^    .*\n)+)", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
TYPED = re.compile(r"(?:python|accelerate|torchrun)\b[^#]* ?-m bench (.*)")
OF_RUNS = ("caption", "compare", "complete", "curve", "evaluate", "generate", "judge", "report")  # what isn't here
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def commands(text: str) -> list[str]:
    """What stands behind `python -m bench` in a page, in blocks and in sentences."""
    blocks = [block or indented for block, indented in FENCED.findall(text)]
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    said = [" ".join(words.split()) for words in INLINE.findall(FENCED.sub("", text))]
    return [found[1] for line in (*lines, *said) if (found := TYPED.match(line))]


TOLD = sorted(
    {
        (page.relative_to(ROOT).as_posix(), command)
        for page in WRITTEN
        if page.name not in OF_RECORDS + ELSEWHERE
        for command in commands(page.read_text(encoding="utf-8"))
    }
)


def test_commands_are_found_in_blocks_and_sentences() -> None:
    page = "`python -m bench\nlist`:\n\n```sh\ntorchrun -m bench run \\\n  --lm x\n```\n\n    python -m bench gate\n"
    assert commands(page) == ["run    --lm x", "gate", "list"]
    assert len(TOLD) > 60


@pytest.mark.parametrize(("page", "command"), TOLD)
def test_a_command_that_a_page_tells_is_understood(
    page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options exist, their values are allowed and fit each other. Nothing is done."""
    words = shlex.split(command.replace("RUN...", "RUN"), comments=True)
    name, rest = words[0], [{"X": "dual_tower"}.get(word, word) for word in words[1:]]
    verb = cli.VERBS[name]
    if not rest:
        return  # the verb's name in a sentence
    done: list[object] = []

    def loaded(path: str) -> Any:
        return target if path == verb.target else at(path)

    def target(*given: object) -> int:
        done.append(given)
        return 0

    monkeypatch.setattr(cli, "at", loaded)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")  # of a clone, in which a command that names it is given
    absent = name in OF_RUNS or "slurm" in rest or any(word.startswith("./") for word in rest)  # runs, queue or data
    if absent:
        monkeypatch.setattr(at(verb.arguments), "check", lambda *_: None)
    assert cli._call(name, verb, rest) == 0 and len(done) == 1


def anchors(page: Path) -> set[str]:
    """The names that a page's headings get where it is shown."""
    heads = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue  # another place's
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
