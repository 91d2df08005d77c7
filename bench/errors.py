"""The two kinds of failure that a person sees. A leaf module: anyone may import it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend. The message is one sentence: what was wrong, what was expected, the nearest
    valid choice. The command line prints it without a traceback and exits with code 2."""


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
