"""From words on the command line to arguments and a config, by tyro, whose boxes become one sentence. No torch."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import types
import typing
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from bench.class_source import sources_read_once
from bench.config import Config
from bench.errors import UserError, nearest
from bench.files import at_home
from bench.presets import beside, check_unit, load_config, preset

SHORT = {"--lm": "--model.lm", "--vae": "--model.vae", "--clip": "--model.clip"}
"""Short names of flags that every verb with a config takes."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every verb takes."""

    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class ConfiguredCommon(Common):
    """What every verb with a config takes."""

    config: Path | None = None
    """A config as JSON, to start from in place of a preset."""


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """One command line: the verb's own arguments, the config (the default one where the verb takes none)."""

    arguments: Any
    config: Config


def parse(kind: type[Any], words: Sequence[str], *, verb: str, program: str, configured: bool) -> Parsed:
    """The verb's arguments, an instance of `kind`, and its config: the preset or file that the words name, with every
    field that they set. A `kind` with `of_words(words, config)` says by that what dataclass to parse in its place.
    UserError, one sentence, on the first mistake. `--help` prints and raises SystemExit(0)."""
    import tyro

    words = spelled_out(words, {flag for flag, _ in flags_of(kind)}) if configured else words
    base = base_of(words) if configured else Config()
    if hasattr(kind, "of_words"):
        kind = kind.of_words(words, base)
    common = ConfiguredCommon if configured else Common
    parts: list[tuple[str, Any, Any]] = [("arguments", kind, kind()), ("common", common, common())]
    if configured:
        parts.append(("config", Config, base))
    unprefixed = tyro.conf.arg(name="")
    fields = [(name, Annotated[part, unprefixed], field(default=value)) for name, part, value in parts]
    whole = dataclasses.make_dataclass("Whole", fields, kw_only=True, frozen=True)
    flags = {flag: hint for _, part, _ in parts for flag, hint in flags_of(part)}
    _check_empty(words, kind, flags)
    with _one_sentence(words, flags, verb, f"{program} {verb} --help"), sources_read_once(), _told_without_typeguard():
        parsed: Any = tyro.cli(
            whole,
            args=list(words),
            prog=f"{program} {verb}",
            description=kind.__doc__,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff),
        )
    config = _named_by_path(parsed.config, words) if configured else base
    if not last_values(words, "--train.amount"):
        check_unit(base.train, config.train)
    return Parsed(arguments=_at_home(parsed.arguments), config=config)


def _check_empty(words: Sequence[str], kind: type[Any], flags: dict[str, Any]) -> None:
    """UserError where a list that is empty by default, or a path, is given without a value, as by a shell's empty
    variable: an empty path would be the working directory; and where a list is given twice, for tyro takes the last."""
    named = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    given = set(named)
    bare = {f"--{item.name}".replace("_", "-") for item in dataclasses.fields(kind) if item.default == ()}
    for flag in [] if "--help" in given else sorted(given & flags.keys()):
        values = last_values(words, flag)
        if (flag in bare and not values) or (Path in (flags[flag], *typing.get_args(flags[flag])) and "" in values):
            raise UserError(f"{flag} has no value, expected {type_name(flags[flag])}")
        if named.count(flag) > 1 and _is_list(flags[flag]):
            raise UserError(f"{flag} is given {named.count(flag)} times, expected all its values behind one")


def _is_list(hint: Any) -> bool:
    """Whether a flag takes several values."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Annotated, typing.Union, types.UnionType):
        return any(map(_is_list, arguments))
    return origin is tuple


def _at_home(arguments: Any) -> Any:
    """The arguments with every path's ~ as the home folder: a shell expands it only where a word begins."""
    own = {item.name: getattr(arguments, item.name) for item in dataclasses.fields(arguments)}
    found = {name: at_home(value) for name, value in own.items() if isinstance(value, Path)}
    return replace(arguments, **found) if found else arguments


@contextlib.contextmanager
def _told_without_typeguard() -> Iterator[None]:
    """While it lasts, tyro needs no typeguard to see that a default is of its field's type where that is `A | B` or
    `tuple[A, ...]`: its import takes a fifth of what a help needs."""
    from tyro import _resolver as resolver

    own = resolver.is_instance

    def told(typ: Any, value: Any) -> bool:
        of, inner = typing.get_origin(typ), typing.get_args(typ)
        if of is types.UnionType:
            return any(told(each, value) for each in inner)
        if of is tuple and inner[1:] == (...,):
            return isinstance(value, tuple) and all(told(inner[0], each) for each in value)
        return own(typ, value)

    resolver.is_instance = told
    try:
        yield
    finally:
        resolver.is_instance = own


def flags_of(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every flag that tyro makes of a dataclass, with its annotation: `--data.train-items`, int."""
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        if item.metadata.get("positional"):
            continue
        if dataclasses.is_dataclass(hint):
            yield from flags_of(hint, f"{prefix}{item.name}.")
        else:
            negated = "no-" if hint is bool and item.default is True else ""
            yield f"--{prefix}{negated}{item.name}".replace("_", "-"), hint


def base_of(words: Sequence[str]) -> Config:
    """The config that a command line starts from, before its own fields are set. Each flag takes one value: what
    follows may be the verb's own."""
    name, file = last_values(words, "--preset"), last_values(words, "--config")
    if name and file:
        raise UserError("--preset and --config both name a config to start from, expected one of them")
    lm = last_values(words, "--model.lm")
    if file:
        config = load_config(at_home(file[0]))
        return replace(config, model=replace(config.model, lm=lm[0])) if lm else config
    config = preset(name[0] if name else "tiny")
    return beside(config, lm[0]) if lm else config


def spelled_out(words: Sequence[str], own: Container[str] = ()) -> list[str]:
    """The words with short flags in full, but for a verb's own flags of the same name.

    >>> spelled_out(["--lm", "./mine", "--vae=other"])
    ['--model.lm', './mine', '--model.vae=other']
    """
    parted = [word.partition("=") for word in words]
    return [(flag if flag in own else SHORT.get(flag, flag)) + equals + value for flag, equals, value in parted]


def _named_by_path(config: Config, words: Sequence[str]) -> Config:
    """The config, with the dataset and the corpus that can read its paths where the words give a path and no name."""
    from bench.data.sources import dataset_of, text_of

    def asked(section: str) -> bool:
        return bool(last_values(words, f"--{section}.path")) and not last_values(words, f"--{section}.name")

    data, text = config.data, config.text
    if asked("data") and (found := dataset_of(data.name, data.path)):
        data = replace(data, name=found)
    if asked("text") and (found := text_of(text.path)):
        text = replace(text, name=found)
    return replace(config, data=data, text=text)


def last_values(words: Sequence[str], flag: str) -> list[str]:
    """The values of a flag's last appearance; none where it is absent or bare."""
    values: list[str] = []
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not word.startswith("--") or name.replace("_", "-") != flag:
            continue
        if equals:
            values = [value]
        else:
            end = index + 1
            while end < len(words) and not words[end].startswith("--") and words[end] != "-h":
                end += 1
            values = list(words[index + 1 : end])
    return values


@contextlib.contextmanager
def _one_sentence(words: Sequence[str], flags: dict[str, Any], verb: str, help_words: str) -> Iterator[None]:
    """Turn tyro's refusal into a UserError. tyro 1.0's hook on parse errors is private; where another version lacks it,
    or knows an error that we don't, its own text is reduced."""

    def refuse(event: Any) -> None:
        if sentence := _sentence(event, words, flags, verb, help_words):
            raise UserError(sentence)

    said = io.StringIO()
    with contextlib.ExitStack() as stack:
        try:
            from tyro import _errors

            stack.enter_context(_errors.on_parse_error(refuse))
        except (ImportError, AttributeError):
            pass
        try:
            with contextlib.redirect_stderr(said):
                yield
        except SystemExit as exit_:
            if exit_.code in (0, None):
                raise
            _refuse_with(said.getvalue(), help_words)


def _refuse_with(text: str, help_words: str) -> NoReturn:
    """tyro's box as one sentence: its title and its text up to the rule after it, without the frame."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    title, *lines = [line.strip().strip("│┃|").strip() for line in plain.splitlines() if line.strip()] or ["refused"]
    is_text = [bool(line.strip("─━╭╮╰╯┏┓┗┛+-")) for line in lines]
    first = is_text.index(True) if True in is_text else len(lines)  # without UTF-8 a rule follows the title
    last = is_text.index(False, first) if False in is_text[first:] else len(lines)
    body = " ".join(lines[first:last])
    raise UserError(f"{title.strip('─━╭╮┏┓+- ').lower()}: {body} (see '{help_words}')")


def _sentence(event: Any, words: Sequence[str], flags: dict[str, Any], verb: str, help_words: str) -> str:
    """What was wrong, what was expected, the nearest valid choice; "" for an event unknown here."""
    kind = type(event).__name__
    if kind == "UnrecognizedArgs":
        return _unrecognized(event.tokens[0], words, flags, verb, help_words)
    if kind == "MissingArgs":
        missing = ", ".join(item.arg.lowered.name_or_flags[0] for item in event.missing_arguments)
        return f"'{verb}' needs {missing}"
    argument = getattr(event, "argument", None)
    if argument is None:
        return ""
    flag = argument.lowered.name_or_flags[0]
    if kind == "InvalidChoice":
        return f"{flag} is '{event.value}': {nearest(event.value, event.choices)}"
    expected = type_name(flags.get(flag, str))
    given = " ".join(last_values(words, flag))
    if kind == "BadValue" or (kind == "InstantiationFailure" and not given):
        return f"{flag} has no value, expected {expected}"
    if kind == "InstantiationFailure":
        return f"{flag} is '{given}', expected {expected}"
    return ""


def _unrecognized(token: str, words: Sequence[str], flags: dict[str, Any], verb: str, help_words: str) -> str:
    if not token.startswith("-"):
        attached = next((word for word in words if word.partition("=")[::2] == (word.split("=")[0], token)), "")
        if "=" in attached:
            return f"{attached.split('=')[0]} takes no value, got '{token}'"
        return f"'{verb}' can't place '{token}', expected options only (see '{help_words}')"
    name = "--" + token.split("=")[0].lstrip("-").replace("_", "-")
    if groups := sorted(flag for flag in flags if flag.startswith(f"{name}.")):
        return f"{name} is a group of options, expected one of its fields, such as {groups[0]}"
    last = name.removeprefix("--").split(".")[-1]
    likely = [flag for flag in flags if verb == "pretrain" or not flag.startswith("--pretrain.")]
    same_end = [flag for flag in likely if flag.removeprefix("--").split(".")[-1] == last]
    close = same_end or difflib.get_close_matches(name, likely, n=1)
    hint = f"did you mean {_either(close)}?" if close else f"see '{help_words}'"
    return f"'{verb}' has no option {token.split('=')[0]}: {hint}"


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def type_name(hint: Any) -> str:
    """An annotation in a reader's words.

    >>> type_name(tuple[int, ...]), type_name(str | None)
    ('a list of int', 'str or None')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple:
        return f"a list of {type_name(arguments[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join("None" if item is type(None) else type_name(item) for item in arguments)
    return {"Path": "a path"}.get(getattr(hint, "__name__", ""), getattr(hint, "__name__", str(hint)))
