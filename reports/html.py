"""The report as one HTML file that needs nothing else: no request leaves it, and nothing in a record is markup."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Any

from bench.printable import clean
from reports.claims import published
from reports.document import Document
from reports.glossary import listed, meaning, number
from reports.pictures import BRIEF, LONGEST
from reports.svg import SERIES

VERDICTS = {
    "supported": "good", "holds": "good", "partly supported": "fair", "contradicted": "bad", "mixed": "fair",
    "not told apart": "fair", "not measured": "none",
}  # fmt: skip
"""Verdict -> how its badge looks; its words say the same."""


def html(document: Document) -> str:
    """The page."""
    return rendered("report.html", d=document, published=published())


def rendered(template: str, **values: Any) -> str:
    """A page of its template and its values, in the look of all pages."""
    environment = _environment()
    style, script = (environment.get_template(name).render(series=SERIES) for name in ("style.css", "script.js"))
    values |= {
        "style": style,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "verdicts": VERDICTS,
    }
    text: str = environment.get_template(template).render(**values)
    return text


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        finalize=_finished,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"listed": listed, "number": number, "cut": cut}
    environment.globals |= {"meaning": meaning, "brief": BRIEF, "longest": LONGEST}
    return environment


def _finished(value: Any) -> Any:
    """What every printed value goes through."""
    return clean(value) if type(value) is str else value


def cut(text: str, length: int = LONGEST) -> str:
    """Text up to a length, and then how long it is."""
    return text if len(text) <= length else f"{text[:length]} … ({len(text):,} letters in all)"
