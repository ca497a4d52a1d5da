"""foveate compresses the visual tokens of vision-language models, without training, in stock transformers.

with foveate.compress(model, "aim", keep=0.25) as run:
    answer = model.generate(**inputs)
print(run.trace)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compose import TwoStage, With
    from .engine.run import attach, compress
    from .errors import FoveateError
    from .evaluate.accuracy import CompressionMetrics, evaluate_compression
    from .loading import load
    from .method import Card, Method, all_methods, get_method
    from .plan import make_plan, solve

__version__ = "0.1.0"

_HOME = {
    "all_methods": "method",
    "attach": "engine.run",
    "Card": "method",
    "compress": "engine.run",
    "CompressionMetrics": "evaluate.accuracy",
    "evaluate_compression": "evaluate.accuracy",
    "FoveateError": "errors",
    "get_method": "method",
    "load": "loading",
    "Method": "method",
    "TwoStage": "compose",
    "With": "compose",
    "make_plan": "plan",
    "solve": "plan",
}

__all__ = [
    "Card",
    "CompressionMetrics",
    "FoveateError",
    "Method",
    "TwoStage",
    "With",
    "all_methods",
    "attach",
    "compress",
    "evaluate_compression",
    "get_method",
    "load",
    "make_plan",
    "solve",
]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import; `import foveate` and `foveate --help` should not
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
