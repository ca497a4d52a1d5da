"""The run-time type checker of the tests: an int is a float, as for every other checker."""

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(checked):
    """Functions defined inside others are left out: making their checks at each call takes longer than the call."""
    return checked if "<locals>" in checked.__qualname__ else _check(checked)
