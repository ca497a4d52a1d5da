"""Every promise of `foveate.testing` for every method on every family, found, not listed."""

import pytest

from foveate.compose import TwoStage
from foveate.families import families
from foveate.method import all_methods
from foveate.testing import PROMISES, Case

METHODS = {name: cls() for name, cls in all_methods().items()}
METHODS["two-stage"] = TwoStage(merge=METHODS["divprune"], prune=METHODS["fastv"])
FAMILIES = {f.title: f for f in families().values()}
# methods that only some families can run; that the others refuse them is tested where the method is
ONLY = {"ficoco": {"LLaVA-1.5"}}
PAIRS = [(m, f) for m in METHODS for f in FAMILIES if f in ONLY.get(m, FAMILIES)]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda p: p.__name__)
@pytest.mark.parametrize(("method", "family"), PAIRS, ids=map("-".join, PAIRS))
def test_promise(method, family, promise):
    promise(Case(FAMILIES[family], METHODS[method]))
