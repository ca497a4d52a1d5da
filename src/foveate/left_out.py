"""Methods that one looks for here and does not find, and what is missing to write them honestly."""

from __future__ import annotations

#: name: title, paper, why
LEFT_OUT = {
    "aot": (
        "AOT",
        "CVPR 2026",
        "known to us by a summary only: it gives neither the cost of the transport nor how the anchors' budget is "
        "divided between image and clip",
    ),
    "ficoco-l": (
        "FiCoCo-L",
        "arXiv 2411.17686",
        "at which layers of the language model it cuts, and how many tokens leave at each, is not known to us; its "
        "form for the vision tower is `ficoco`",
    ),
    "flowcut": (
        "FlowCut",
        "arXiv 2505.19536",
        "what we know of it leaves open over which heads the entropy that sets the count of a block is taken, whether "
        "its two relations are normalised over all tokens or those left, and where the running score starts",
    ),
    "fsr": (
        "FSR",
        "arXiv 2602.05809",
        "it ranks by CLIP's text tower, which checkpoints of vision-language models do not hold",
    ),
    "trim": (
        "TRIM",
        "COLING 2025",
        "it ranks by CLIP's text tower, which checkpoints of vision-language models do not hold; `cdpruner` ranks by "
        "the text that the language model sees",
    ),
    "unist": (
        "UniST",
        "CVPR 2026",
        "known to us by a summary only: it says neither which attention orders its pool nor how the dropped are merged",
    ),
}
