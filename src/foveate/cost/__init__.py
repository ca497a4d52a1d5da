"""What compression buys, before anything is run: FLOPs, bytes, milliseconds and gigabytes from a config and a method.

from foveate.cost import Inputs, estimate
report = estimate("qwen2.5-vl-7b", Inputs(images=((1344, 1008),)), "divprune", hardware="h100")
print(report.costs.ttft_ms, report.uncompressed.ttft_ms)

No weights, no GPU; torch is imported for methods only, transformers for hub ids only.
"""

from .estimate import estimate
from .ledger import AimParameters
from .profile import analyze_model, llm_viewer
from .published import published
from .report import CostReport
from .tokens import Inputs, Video

__all__ = [
    "AimParameters",
    "CostReport",
    "Inputs",
    "Video",
    "analyze_model",
    "estimate",
    "llm_viewer",
    "published",
]
