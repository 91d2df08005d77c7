"""A gate's findings for people and for CI: a table, markdown for a pull request, JUnit XML. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.console import Console
from bench.files import atomic_path, write_text
from bench.gates.findings import FAILS, Finding, verdict

MARKS = {"pass": "ok", "regression": "WORSE", "missing": "MISSING", "refused": "REFUSED", "not judged": "not judged"}


def show(findings: Sequence[Finding], console: Console) -> None:
    """A table on the terminal, and the verdict."""
    if findings:
        console.table("gate", [["", "name", "head / base", ""], *_rows(findings)])
    console.info(verdict(findings))


def _rows(findings: Sequence[Finding]) -> list[list[str]]:
    return [[MARKS[f.status], f.name, _ratio(f), f.said] for f in findings]


def _ratio(finding: Finding) -> str:
    if finding.ratio is None:
        return ""
    median, low, high = finding.ratio
    return f"{median:.3f} [{low:.3f}, {high:.3f}]"


def plain(findings: Sequence[Finding]) -> dict[str, Any]:
    """What --json prints."""
    return {"verdict": verdict(findings), "findings": [dataclasses.asdict(finding) for finding in findings]}


def write_markdown(findings: Sequence[Finding], path: Path) -> None:
    """Whatever is not well first, all of it folded below."""
    bad = [finding for finding in findings if finding.status != "pass"]
    lines = [f"**Gate: {verdict(findings)}**", ""]
    lines += [*_table(bad), ""] if bad else []
    lines += ["<details><summary>all</summary>", "", *_table(findings), "", "</details>", ""]
    write_text(path, "\n".join(lines))


def _table(findings: Sequence[Finding]) -> list[str]:
    head = ["| | name | head / base | |", "|---|---|---|---|"]
    return [*head, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in _rows(findings))]


def write_junit(findings: Sequence[Finding], path: Path) -> None:
    """A test case a name, a suite a kind; a refusal is an error, and what was not judged is skipped."""
    root = ElementTree.Element("testsuites", name="gate")
    for kind in dict.fromkeys(finding.kind for finding in findings):
        own = [finding for finding in findings if finding.kind == kind]
        counts = {
            "tests": len(own),
            "failures": sum(f.status in FAILS for f in own),
            "errors": sum(f.status == "refused" for f in own),
            "skipped": sum(f.status == "not judged" for f in own),
        }
        suite = ElementTree.SubElement(
            root, "testsuite", {"name": kind, **{name: str(n) for name, n in counts.items()}}
        )
        for finding in own:
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"gate.{kind}.{finding.group}", name=finding.name,
                time=f"{finding.seconds:.3f}",
            )  # fmt: skip
            said = f"{_ratio(finding)} {finding.said}".strip()
            tag = {"refused": "error", "not judged": "skipped", "pass": ""}.get(finding.status, "failure")
            if tag:
                ElementTree.SubElement(case, tag, message=said)
    with atomic_path(path) as part:
        ElementTree.ElementTree(root).write(part, encoding="utf-8", xml_declaration=True)
