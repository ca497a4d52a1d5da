"""FLOPs that papers print, the convention each of them follows, and what the same tokens cost when everything counts.

Most print multiply-adds ("MACs", half the FLOPs) of the decoder's layers, 4nd^2 + 2n^2d + 2ndf or 3ndf for n tokens: no
grouped keys, no head, no tower, no projector, often no text, and with 2ndf one matrix of the feed-forward too few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from .arch import Arch
from .count import operations
from .hf import arch_of
from .ledger import AimParameters, Ledger
from .ops import total_flops
from .profile import llm_viewer
from .tokens import Grid, Prompt, Visual

#: text tokens of the honest count where a paper counts none
TEXT = 50
MACS = "MACs are half the FLOPs"
TWO = "one of the three matrices of the feed-forward is missing"
NO_TEXT = f"no text (here {TEXT} tokens)"
ONE_LAYER = "the average of one layer, not the sum"
HEADS = "keys and values counted as wide as queries, which are 7 times wider"


@dataclass(frozen=True)
class Honest:
    """Everything, in TFLOPs: the language model with full and with causal attention, and with tower and projector.

    The last is None where this cost model does not know the tower.
    """

    llm_tflops: float
    llm_causal_tflops: float
    end_to_end_tflops: float | None


@dataclass(frozen=True)
class Published:
    """One number of one table.

    printed     as the paper prints it, in `unit`
    reproduced  by the paper's convention, in that unit; it `follows` where that is the printed number
    visual      visual tokens of each layer; text: all others, of the honest count
    reasons     why the honest number differs
    patches     what the tower encodes
    """

    paper: str
    setting: str
    printed: str
    unit: str
    reproduced: float
    model: str
    visual: tuple[int, ...]
    text: int
    reasons: tuple[str, ...]
    patches: tuple[Grid, ...] = ()
    follows: bool = True

    def honest(self) -> Honest:
        """The same tokens by exact counts: one prompt, logits of the last position."""
        whole = Visual("image", self.patches or (Grid(1, 1, 1),), (Grid(1, 1, self.visual[0]),))
        ops = operations(_arch(self.model), Prompt((whole,), self.text), Ledger(self.visual, self.text))
        llm = [op for op in ops if op.part in ("prefill", "head")]
        end = total_flops(ops, full=True) / 1e12 if self.patches else None
        return Honest(total_flops(llm, full=True) / 1e12, total_flops(llm) / 1e12, end)


def published() -> tuple[Published, ...]:
    """All rows, by paper."""
    return (*_fastv(), *_pyramiddrop(), *_sparsevlm(), *_holitom(), *_earlytom(), *_aim())


def macs(n: float, d: int, f: int, matrices: int) -> float:
    """4nd^2 + 2n^2d + `matrices` ndf."""
    return 4 * n * d * d + 2 * n * n * d + matrices * n * d * f


def _tera(model: str, tokens: Sequence[float], matrices: int) -> float:
    """The sum of that over the layers of a model with these tokens, in units of 1e12."""
    lm = _arch(model).language
    return sum(macs(n, lm.hidden, lm.blocks[0].feed_forward.width, matrices) for n in tokens) / 1e12


@cache
def _arch(model: str) -> Arch:
    return arch_of(model)


def _cut(layers: int, whole: int, at: int, left: int) -> tuple[int, ...]:
    return (whole,) * at + (left,) * (layers - at)


# ── the papers ───────────────────────────────────────────────────────────────────────────────────────────────────

CLIP = (Grid(1, 24, 24),)
SIGLIP = (Grid(32, 27, 27),)


def _fastv() -> Iterator[Published]:
    """Billions of MACs of one layer with 612 tokens, 576 of them visual; reduced rows are a whole percentage of it."""
    why: tuple[str, ...] = (ONE_LAYER, MACS, TWO)
    for model, printed in (("llava-1.5-7b", "99.3"), ("llava-1.5-13b", "154.6")):
        layers = len(_arch(model).language.blocks)
        one = 1e3 * _tera(model, (612,), 2)
        yield Published("FastV", f"{model}, all tokens", printed, "B", one, model, (576,) * layers, 36, why, CLIP)
    model = "llava-1.5-7b"
    why = (*why, "rounded to a whole percentage, then multiplied by 99.3")
    rows = ((2, 50, "54.6"), (2, 75, "32.8"), (2, 90, "19.9"), (3, 90, "22.8"), (5, 50, "59.6"), (0, 90, "18.9"))
    for layer, ratio, printed in rows:
        tokens = (612.0,) * layer + (612 - 5.76 * ratio,) * (32 - layer)
        percent = round(100 * _tera(model, tokens, 2) / _tera(model, (612,) * 32, 2))
        yield Published(
            "FastV", f"{model}, K={layer} R={ratio} %", printed, "B", 0.993 * percent,
            model, _cut(32, 576, layer, round(5.76 * (100 - ratio))), 36, why, CLIP, follows=layer > 0,
        )  # fmt: skip


def _pyramiddrop() -> Iterator[Published]:
    """Trillions of MACs of all layers, visual tokens alone; 7B, four equal stages that halve."""
    cases = (
        ("llava-1.5-7b", 576, CLIP, ("3.82", "2.01", "1.78")),
        ("llava-next-7b", 2880, CLIP * 5, ("20.8", "10.6", "9.46")),
        ("llava-next-7b", 5184, CLIP * 9, ("40.6", None, "18.1")),
        ("llava-1.5-7b", 2048, (), ("14.4", "7.4", "6.6")),
    )
    for model, n, patches, prints in cases:
        name = "Video-LLaVA" if n == 2048 else model
        stages = tuple(n // 2 ** (4 * layer // 32) for layer in range(32))
        settings = (("all tokens", (n,) * 32), ("FastV K=2 R=50 %", _cut(32, n, 2, n // 2)), ("PyramidDrop", stages))
        for (setting, tokens), printed in zip(settings, prints, strict=True):
            if printed is not None:
                yield Published(
                    "PyramidDrop", f"{name}, {n} visual tokens, {setting}", printed, "T", _tera(model, tokens, 3),
                    model, tokens, TEXT, (MACS, NO_TEXT), patches,
                )  # fmt: skip


def _sparsevlm() -> Iterator[Published]:
    """As PyramidDrop's, with 118 other tokens: the number that fits."""
    model, why = "llava-1.5-7b", (MACS, "118 tokens of text are a guess that fits")
    for setting, printed, visual in (
        ("all tokens", "4.62", 576),
        ("its row of PyramidDrop, 192 tokens", "2.03", 192),
        ("its row of ToMe, 64 tokens", "1.19", 64),
    ):
        reproduced = _tera(model, (visual + 118,) * 32, 3)
        yield Published(
            "SparseVLM", f"{model}, {setting}", printed, "T", reproduced, model, (visual,) * 32, 118, why, CLIP
        )


def _holitom() -> Iterator[Published]:
    """Trillions of MACs of all layers with two matrices, visual tokens alone; kept tokens rounded up in each frame."""
    model, why = "llava-onevision-7b", (MACS, TWO, HEADS, NO_TEXT)
    rows = [("all tokens", "40.8", (6272,) * 28), ("FastV K=2, keep 20 %", "9.3", _cut(28, 6272, 2, 1254))]
    for keep, printed in ((25, "8.7"), (20, "7.0"), (15, "5.2"), (10, "3.4")):
        rows.append((f"keep {keep} %", printed, (32 * -(-196 * keep // 100),) * 28))
    for setting, printed, tokens in rows:
        yield Published(
            "HoliTom", f"{model}, 32 frames, {setting}", printed, "T", _tera(model, tokens, 2),
            model, tokens, TEXT, why, SIGLIP,
        )  # fmt: skip
    model, tokens = "llava-video-7b", (64 * 169,) * 28
    yield Published(
        "HoliTom", f"{model}, 64 frames, all tokens", "80.2", "T", _tera(model, tokens, 2),
        model, tokens, TEXT, (*why, "no newlines"), (Grid(64, 27, 27),),
    )  # fmt: skip


def _earlytom() -> Iterator[Published]:
    """HoliTom's for the language model, and 26 blocks of the tower over all 32 frames as if they were one sequence."""
    model, why = (
        "llava-onevision-7b",
        (MACS, TWO, HEADS, NO_TEXT, "attention of the tower across frames, which none has"),
    )
    tower = 26 * macs(32 * 729, 1152, 4304, 2) / 1e12
    whole, tenth = (tower + _tera(model, (n,) * 28, 2) for n in (6272, 627))
    for setting, printed, unit, reproduced, n in (
        ("all tokens", "82.6", "T", whole, 6272),
        ("its row of VisionZip, keep 10 %", "54.7", "%", 100 * tenth / whole, 627),
    ):
        yield Published(
            "EarlyTom", f"{model}, 32 frames, {setting}", printed, unit, reproduced,
            model, (n,) * 28, TEXT, why, SIGLIP,
        )  # fmt: skip


def _aim() -> Iterator[Published]:
    """LLM-Viewer's FLOPs with 100 tokens of text; pruned rows charge each layer what the next one attends to."""
    model, why = "llava-onevision-7b", ("no tower, no projector", "half the head; softmax, norms and adds counted")
    late = (*why, "the released code makes each cut one layer later")
    masks = (*why, "the released code masks and removes nothing: every layer runs on all merged tokens")
    script, released, masked = (AimParameters(timing=t).per_layer(28, 1568) for t in ("paper", "released", "masked"))
    for setting, printed, charged, visual, reasons in (
        ("all tokens", "99.63", (6272,) * 28, (6272,) * 28, why),
        ("merged to 25 %", "22.90", (1568,) * 28, (1568,) * 28, why),
        ("25 % + (14, 22), as its script", "14.76", script, script, why),
        ("25 % + (14, 22), as released, if removed", "14.76", script, released, late),
        ("25 % + (14, 22), as released, masked", "14.76", script, masked, masks),
    ):
        viewed = llm_viewer(_arch(model).language, [n + 100 for n in charged])
        yield Published(
            "AIM", f"{model}, 32 frames, {setting}", printed, "T", viewed.flops / 1e12,
            model, visual, 100, reasons, SIGLIP,
        )  # fmt: skip
