"""The one exception a user is meant to read.

Whatever the user can mend (a misspelt key, a missing folder, a width of 0) is raised as `UserError`: its text quotes what was
written and says what to do. The command line prints it without a traceback and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user wrote or gave cannot be used; the message says what and what to do."""


class AgreedError(UserError):
    """What every process of a run finds alike, so that one of them says it for all."""


def nearest(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known word, or the list of what is known when nothing is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(names)}."
