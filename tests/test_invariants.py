"""Every promise of `foveate.testing` for every method on every family, found, not listed."""

import pytest

from foveate.compose import TwoStage
from foveate.families import families
from foveate.method import all_methods
from foveate.testing import PROMISES, Case

METHODS = {name: cls() for name, cls in all_methods().items()}
METHODS["two-stage"] = TwoStage(merge=METHODS["divprune"], prune=METHODS["fastv"])
FAMILIES = {f.title: f for f in families().values()}


@pytest.mark.parametrize("promise", PROMISES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_promise(method, family, promise):
    promise(Case(FAMILIES[family], METHODS[method]))
