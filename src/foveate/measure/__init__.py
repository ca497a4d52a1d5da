"""What compression costs and what it keeps: bench, fidelity, compare, and the studies they write.

foveate.measure.bench(loaded, samples, methods, levels)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .benchmark import bench
    from .comparison import compare
    from .contender import Level
    from .divergence import fidelity
    from .study import Study

_HOME = {
    "bench": "benchmark",
    "compare": "comparison",
    "fidelity": "divergence",
    "Level": "contender",
    "Study": "study",
}

__all__ = ["Level", "Study", "bench", "compare", "fidelity"]


def __getattr__(name: str) -> Any:
    # studies are read without torch
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
