"""The source of classes, read once a module: what `inspect` reads, sooner."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import Any

import pytest

from approaches import settings
from bench import cli, config, parsing
from bench.class_source import source_of, sources_read_once
from bench.registry import at


@dataclasses.dataclass
class Decorated:
    """A class whose source begins above its name."""

    field: int = 0
    """A docstring below a field."""


def known() -> list[Any]:
    """Every dataclass that a command line is read into, by name."""
    ours = [each for module in (config, settings, parsing) for _, each in inspect.getmembers(module, inspect.isclass)]
    words = [at(verb.arguments) for verb in cli.VERBS.values()]
    kinds = [each for each in {*ours, *words, Decorated} if dataclasses.is_dataclass(each)]
    return sorted(kinds, key=lambda kind: (kind.__qualname__, kind.__module__))


@pytest.mark.parametrize("kind", known(), ids=lambda kind: kind.__qualname__)
def test_it_is_what_inspect_reads(kind: type[Any]):
    assert source_of(kind) == inspect.getsource(kind)


def test_what_it_does_not_know_is_left_to_inspect():
    class Inner:
        pass

    made = dataclasses.make_dataclass("Made", [("field", int)])
    for thing in (Inner, int, made, known, inspect, 3):
        assert source_of(thing) is None
    own = inspect.getsource
    with sources_read_once():
        assert inspect.getsource(known) == own(known)
        assert inspect.getsource(Decorated) == own(Decorated)
        with pytest.raises(TypeError):
            inspect.getsource(int)
    assert inspect.getsource is own


def test_a_module_is_parsed_once(monkeypatch: pytest.MonkeyPatch):
    parsed: list[Any] = []
    own = ast.parse

    def parse(*words: Any, **named: Any) -> ast.Module:
        parsed.append(words)
        return own(*words, **named)

    monkeypatch.setattr(ast, "parse", parse)
    with sources_read_once():
        for kind in (config.DataConfig, config.TrainConfig, config.Config, config.TextConfig):
            inspect.getsource(kind)
    assert len(parsed) <= 1
