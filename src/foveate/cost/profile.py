"""What LLM-Viewer, in the form AIM's tables were made with, says of a prefill: for comparison with published numbers.

It counts the language model alone and knows no vision tower, projector, method of its own, RoPE, bias, embedding or
final norm. Its LM head has half the FLOPs, its activation the hidden width, its fused attention writes n x n outputs;
for Qwen2 AIM left the add behind the feed-forward out. `published` puts the honest number beside each row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidValue, unknown_name
from ..ops.schedule import SCHEDULES, AimSchedule, Explicit, Schedule
from .arch import LanguageModel
from .hf import arch_of

#: its nvidia_A100 (40 GB): bytes/s, FLOP/s in fp16, bytes of registers
BANDWIDTH, PEAK, BUFFER = 1555e9, 312e12, 27648e3
BYTES = 2


@dataclass(frozen=True)
class Viewed:
    """Its two numbers for a prefill."""

    flops: int
    prefill_ms: float


def llm_viewer(
    lm: LanguageModel, tokens: Sequence[int], *, flash: bool = False, last_add: bool | None = None
) -> Viewed:
    """Prefill of one prompt with this many tokens in each layer, by its formulas and its A100.

    last_add  whether the add behind the feed-forward counts; default as AIM: not for models with biases in q, k and v
    """
    if len(tokens) != len(lm.blocks):
        raise InvalidValue(f"the model has {len(lm.blocks)} layers, got tokens for {len(tokens)}; give one for each")
    if last_add is None:
        last_add = not lm.blocks[0].attention.linears[0].bias
    ops = [op for i, n in enumerate(tokens) for op in _layer(lm, i, n, flash, last_add)]
    ops.append((lm.hidden * lm.vocab, BYTES * (lm.hidden * lm.vocab + lm.hidden + lm.vocab)))
    seconds = sum(max(flops / PEAK, moved / BANDWIDTH) for flops, moved in ops)
    return Viewed(sum(flops for flops, _ in ops), 1e3 * seconds)


def _layer(lm: LanguageModel, layer: int, n: int, flash: bool, last_add: bool) -> list[tuple[int, int]]:
    """(FLOPs, bytes) of its operations for n tokens."""
    block, d = lm.blocks[layer], lm.hidden
    a = block.attention
    e = d // a.heads  # it has no other head size
    q, kv = n * e * a.heads, n * e * a.kv_heads
    linears = (*a.linears, *block.feed_forward.linears)
    ops = [(2 * n * x.inputs * x.outputs, BYTES * (x.inputs * x.outputs + n * (x.inputs + x.outputs))) for x in linears]
    pairs = a.heads * n * n
    products, softmax = (2 * pairs * e, BYTES * (2 * kv + pairs)), (5 * pairs, BYTES * 2 * pairs)
    values = (2 * pairs * e, BYTES * (pairs + q + kv))
    if flash:
        rows = min(math.ceil(BUFFER / (BYTES * e)), e)
        ops.append((4 * pairs * e + 5 * pairs, BYTES * (q + 2 * pairs + 2 * kv * math.ceil(n / rows))))
    else:
        ops += [products, softmax, values]
    ops += [(7 * n * d, BYTES * 2 * n * d)] * 2 + [(n * d, BYTES * 2 * n * d)] * (1 + last_add)
    return [*ops, (2 * n * d, BYTES * 3 * n * d)]


# ── analyze_model ────────────────────────────────────────────────────────────────────────────────────────────────

#: what a config may say, and what it says if it does not
SETTINGS: dict[str, Any] = {
    "model": "llava-1.5-7b",
    "visual_tokens": 576,
    "text_tokens": 50,
    "merge_ratio": 0.5,
    "prune_scheduler": "linear",
    "final_prune_ratio": 0.7,
    "flash": False,
}
SYNONYMS = {
    "model_name": "model",
    "num_visual_tokens": "visual_tokens",
    "num_text_tokens": "text_tokens",
    "prune_schedule": "prune_scheduler",
    "schedule": "prune_scheduler",
    "scheduler": "prune_scheduler",
}


def analyze_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Merge, then prune along a schedule, by LLM-Viewer's formulas on its A100: a dict of numbers.

    config  any of SETTINGS: model (a bundled name, a path, a config), visual_tokens, text_tokens, merge_ratio (the
            fraction merged away before the language model), prune_scheduler (a name from `foveate.ops.schedule`, or a
            fraction that stays for each layer), final_prune_ratio (what is pruned at the last layer), flash
    returns flops and prefill_time_ms with compression, the same with `_uncompressed`, compression_ratio (how many times
            fewer FLOPs), tokens_per_layer

    Raises InvalidValue for an unknown key or schedule, with the nearest ones, and for numbers out of range.
    """
    given = {SYNONYMS.get(k, k): v for k, v in config.items()}
    for key in given:
        if key not in SETTINGS:
            raise unknown_name("key of the config", key, SETTINGS)
    wanted = SETTINGS | given
    lm = arch_of(wanted["model"]).language
    visual, text = (_whole(key, wanted[key]) for key in ("visual_tokens", "text_tokens"))
    merged = int((1 - _fraction("merge_ratio", wanted["merge_ratio"])) * visual)
    schedule = _schedule(wanted["prune_scheduler"], _fraction("final_prune_ratio", wanted["final_prune_ratio"]))
    layers = len(lm.blocks)
    tokens = tuple(int(f * merged) + text for f in schedule.per_layer(layers))
    after = llm_viewer(lm, tokens, flash=wanted["flash"])
    before = llm_viewer(lm, (visual + text,) * layers, flash=wanted["flash"])
    return {
        "flops": after.flops,
        "prefill_time_ms": after.prefill_ms,
        "compression_ratio": before.flops / after.flops,
        "flops_uncompressed": before.flops,
        "prefill_time_ms_uncompressed": before.prefill_ms,
        "tokens_per_layer": tokens,
    }


def _schedule(given: Any, final: float) -> Schedule:
    if isinstance(given, Schedule):
        return given
    if not isinstance(given, str):
        return Explicit(tuple(given))
    if given not in SCHEDULES or given == "explicit":
        raise unknown_name("schedule", given, set(SCHEDULES) - {"explicit"})
    cls = SCHEDULES[given]
    if cls is AimSchedule or "final_ratio" not in cls.__dataclass_fields__:  # type: ignore[attr-defined]
        return cls()
    return cls(final_ratio=final)  # type: ignore[call-arg]


def _whole(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidValue(f"{key} must be a whole number above 0, got {value!r}")
    return value


def _fraction(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise InvalidValue(f"{key} must lie in [0, 1), got {value!r}")
    return float(value)
