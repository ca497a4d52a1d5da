"""What foveate refuses, and why: every error names what was given, what is allowed and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches


class FoveateError(Exception):
    """Base of all errors that foveate raises on purpose; the message is one line a user can act on."""


class InvalidValue(FoveateError, ValueError):
    """A number, a name or an option that cannot be used."""


class UnsupportedModel(FoveateError):
    """A model that has no adapter, or no visual tokens at all."""


class UnsupportedInput(FoveateError):
    """An input or a cache that cannot be compressed correctly."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> InvalidValue:
    """The error for a misspelt name: the nearest ones first, then all."""
    names = sorted(known)
    near = get_close_matches(given.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return InvalidValue(f"unknown {kind} {given!r}; {hint}there are: {', '.join(names)}")
