"""The two kinds of failure that a person sees. A leaf module: anyone may import it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend. The message is one sentence: what was wrong, what was expected, the nearest
    valid choice. The command line prints it without a traceback and exits with code 2."""


def first_line(error: BaseException) -> str:
    r"""Of what an error says; its type where it says nothing.

    >>> first_line(ValueError("no such shape\nat line 3")), first_line(MemoryError())
    ('no such shape', 'MemoryError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def in_a_line(error: BaseException) -> str:
    r"""An error's type, and the first line of what it says.

    >>> in_a_line(ValueError("no such shape\nat line 3")), in_a_line(MemoryError())
    ('ValueError: no such shape', 'MemoryError')
    """
    name, said = type(error).__name__, first_line(error)
    return said if said == name else f"{name}: {said}"


def nearest(name: str, choices: Iterable[str]) -> str:
    """A closing clause for a message about an unknown name.

    >>> nearest("shaps", ["shapes", "emoji"])
    "did you mean 'shapes'?"
    >>> nearest("xyz", ["shapes", "emoji"])
    'expected one of: emoji, shapes'
    """
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"expected one of: {', '.join(known)}"
