"""The verbs of `python -m bench`: parses, judges, calls. No logic, and no torch import before it is needed.

Exit codes: 0 done; 1 a gate found a regression, or `compare` something worse; 2 the user's mistake; 3 ours; 130
interrupted; 141 the reader of our output went away.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import __version__
from bench.errors import UserError, in_a_line, nearest
from bench.files import REFUSALS
from bench.printable import printable
from bench.registry import at
from bench.shadows import check_ours

if TYPE_CHECKING:
    from bench.parsing import Parsed

PROGRAM = "python -m bench"


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One line of the table of verbs; every path is "module:attribute", imported when the verb is called.

    target: called with (arguments, config, console), returns an exit code.
    arguments: the dataclass of the verb's own options; its module imports no torch. Where it has a method `check`, that
    is called with the config before the target is imported; it raises UserError, and imports no torch either.
    configured: whether it takes a config: a preset or a file, and every field.
    """

    summary: str
    target: str
    arguments: str
    configured: bool = False


VERBS = {
    "run": Verb(
        summary="train approaches, draw, describe, measure, and keep a record of each",
        target="bench.runner:main",
        arguments="bench.run_arguments:RunArguments",
        configured=True,
    ),
    "sweep": Verb(
        summary="try values of one field, such as learning rates, with equal effort for every approach",
        target="bench.sweep:main",
        arguments="bench.sweep_arguments:SweepArguments",
        configured=True,
    ),
    "evaluate": Verb(
        summary="measure done runs again, without training",
        target="bench.evaluate_again:main",
        arguments="bench.evaluate_arguments:EvaluateArguments",
    ),
    "judge": Verb(
        summary="measure pictures that anybody made against real ones and their captions, without a run",
        target="bench.judge:main",
        arguments="bench.judge_arguments:JudgeArguments",
    ),
    "curve": Verb(
        summary="a done run's quality against network evaluations, guidance or training pictures; its speed by batch",
        target="bench.curves:main",
        arguments="bench.curve_arguments:CurveArguments",
    ),
    "report": Verb(
        summary="write report.html, report.md, results.csv, results.json and samples.csv about runs",
        target="bench.report:main",
        arguments="bench.report_arguments:ReportArguments",
    ),
    "compare": Verb(
        summary="compare two runs, or two sets of runs, number by number; exit code 1 where the second is worse",
        target="bench.report:compare",
        arguments="bench.report_arguments:CompareArguments",
    ),
    "plan": Verb(
        summary="what a run would take: parameters, FLOPs, memory, disk, hours, with the arithmetic",
        target="bench.plan:main",
        arguments="bench.plan_arguments:PlanArguments",
        configured=True,
    ),
    "array": Verb(
        summary="many runs as jobs, here or in SLURM's queue: approaches by seeds by values of a field",
        target="bench.array:main",
        arguments="bench.array_arguments:ArrayArguments",
        configured=True,
    ),
    "reproduce": Verb(
        summary="run a published table's rows with several seeds, and say which of its orderings hold",
        target="bench.reproduce:main",
        arguments="bench.reproduce_arguments:ReproduceArguments",
        configured=True,
    ),
    "generate": Verb(
        summary="draw pictures from words with a trained run",
        target="bench.hands_on:generate",
        arguments="bench.hands_on_arguments:GenerateArguments",
    ),
    "caption": Verb(
        summary="describe pictures with a trained run",
        target="bench.hands_on:caption",
        arguments="bench.hands_on_arguments:CaptionArguments",
    ),
    "complete": Verb(
        summary="continue a text with a trained run",
        target="bench.hands_on:complete",
        arguments="bench.hands_on_arguments:CompleteArguments",
    ),
    "clean": Verb(
        summary="what caches, checkpoints and runs take on the disk, and freeing it by choice",
        target="bench.clean:main",
        arguments="bench.clean_arguments:CleanArguments",
    ),
    "list": Verb(
        summary="what there is to choose from, and whether it can run here",
        target="bench.listing:main",
        arguments="bench.listing:ListArguments",
    ),
    "doctor": Verb(
        summary="what this machine has, what that allows, and what to do about the rest",
        target="bench.doctor:main",
        arguments="bench.doctor:DoctorArguments",
    ),
    "gate": Verb(
        summary="judge this checkout against a base: speed in interleaved pairs, what can be counted, quality",
        target="bench.gates.gate:main",
        arguments="bench.gates.arguments:GateArguments",
    ),
    "pretrain": Verb(
        summary="make the tiny weights that every approach starts from",
        target="bench.pretrain:main",
        arguments="bench.pretrain.arguments:PretrainArguments",
        configured=True,
    ),
    "preview": Verb(
        summary="save contact sheets of datasets and of the VAE's reconstructions",
        target="bench.preview:main",
        arguments="bench.preview_arguments:PreviewArguments",
        configured=True,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Nothing escapes but what Python itself can't catch."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a caption or a path that the terminal can't show is still told
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        check_ours()
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _give_up_output()
        return 141
    except OSError as error:
        if error.errno not in REFUSALS:
            return _internal(error, words, debug)
        if debug:
            traceback.print_exc()
        if error.filename is None:
            with contextlib.suppress(OSError, ValueError):  # it has no file beneath
                _give_up_output()
        print(f"error: {printable(error.filename or 'a file')}: {error.strerror}", file=sys.stderr)
        return 2
    except SystemExit as exit_:  # --help
        return exit_.code if isinstance(exit_.code, int) else 0
    except Exception as error:
        return _internal(error, words, debug)


def _give_up_output() -> None:
    """What standard output could not take is lost: Python flushes it once more at exit, which would raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _internal(error: Exception, words: list[str], debug: bool) -> int:
    """Own up to a mistake of ours."""
    print(f"internal error: {printable(in_a_line(error))}; {_report(words, debug)}", file=sys.stderr)
    return 3


def usage() -> str:
    """The help of the whole program."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} VERB [options]",
            "",
            "Four ways to make a language model draw, behind one interface and one budget.",
            "",
            "verbs:",
            *lines,
            "",
            f"'{PROGRAM} VERB --help' lists a verb's options; any field of a config is one: --data.size 64",
        ]
    )


def _dispatch(words: list[str]) -> int:
    if not words:
        print(usage(), file=sys.stderr)
        return 2
    name, rest = words[0], words[1:]
    if name == "help" and rest:
        name, rest = rest[0], ["--help", *rest[1:]]
    if name in ("--help", "-h", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"bench {__version__}")
        return 0
    if name.startswith("-"):
        raise UserError(f"'{name}' comes before a verb, expected {PROGRAM} VERB [options]; verbs: {', '.join(VERBS)}")
    if name not in VERBS:
        raise UserError(f"unknown verb '{name}': {nearest(name, VERBS)}")
    return _call(name, VERBS[name], rest)


def _call(name: str, verb: Verb, words: list[str]) -> int:
    from bench.console import Console

    parsed = judged(name, verb, words)
    target: Callable[..., int] = at(verb.target)
    return target(parsed.arguments, parsed.config, Console(as_json=getattr(parsed.arguments, "json", False)))


def judged(name: str, verb: Verb, words: Sequence[str]) -> Parsed:
    """What the words behind a verb mean. UserError on a mistake in them, before the verb's own module is imported."""
    from bench.parsing import parse
    from bench.validation import check_bounds, check_names, validate

    kind: type[Any] = at(verb.arguments)
    parsed = parse(kind, words, verb=name, program=PROGRAM, configured=verb.configured)
    check_bounds(parsed.arguments)
    if verb.configured:
        validate(parsed.config)
        check_names(parsed.config)
    if hasattr(parsed.arguments, "check"):
        parsed.arguments.check(parsed.config)
    return parsed


def _report(words: list[str], debug: bool) -> str:
    """Where the traceback of the exception at hand can be read."""
    text = traceback.format_exc()
    if debug:
        print(text, file=sys.stderr)
        return "the traceback is above"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="bench-error-", suffix=".txt", delete=False) as file:
            file.write(f"bench {__version__}, Python {sys.version}\narguments: {words!r}\n\n{text}")
        return f"the traceback is in {file.name}"
    except OSError:
        return "--debug shows the traceback"
