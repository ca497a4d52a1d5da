"""The promises every method keeps on every family, importable: `check_method(MyMethod())` says in words what is broken.

Each promise is a function of a `Case` that raises AssertionError; `PROMISES` lists them. They run on small random
models, on the CPU, in seconds, and need no download.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .engine.run import Run, compress
from .errors import UnsupportedInput
from .families import families
from .families.base import Family
from .form import Watched, judge, made
from .masked import entering, masked_logits
from .method import Method
from .ops.schedule import Linear, Schedule
from .pieces.base import Budget
from .plan import Layer

#: sizes of the images of each row, in LLM tokens; families with one fixed size ignore them
ONE = (((6, 8),),)
UNEQUAL = (((6, 8),), ((4, 5),))
NONE = ((), ())
SEVERAL = [[(6, 8), (4, 5)], [(5, 5)], []]
#: numbers of frames, and two videos in one prompt beside an image and a video in another
FRAMES = (1, 2, 3, 7)
VIDEOS = [[(3, 4, 5), (3, 3, 2)], [(5, 4), (3, 4, 5)]]
#: tokens of an answer: one from the prefill, one behind it, and one behind what decoding itself has added
NEW = 3
#: the prefill alone, for promises about what happens there
BRIEF = {"max_new_tokens": 1, "min_new_tokens": 1}


@dataclass(frozen=True)
class Case:
    """A method on a family."""

    family: Family
    method: Method

    @property
    def model(self) -> nn.Module:
        """A small random model, shared by all cases of the family."""
        return tiny(self.family)

    @property
    def reads_videos(self) -> bool:
        """Whether the family has a placeholder for videos."""
        return "video" in self.family.image_token_ids(self.family.core(self.model).config)

    def inputs(self, rows: Any = ONE, **options: Any) -> dict[str, Any]:
        """A prompt batch."""
        return self.family.tiny_inputs(self.model, rows, **options)

    def keeping(self) -> Method:
        """The method with positions kept, so that it can be compared with masking."""
        return with_positions(self.method, "keep")


@cache
def tiny(family: Family) -> nn.Module:
    """The family's small random model."""
    return family.tiny(0)


@cache
def uncompressed(family: Family, rows: tuple) -> Any:
    """What the family's small model answers without a context: the same for every method."""
    model = tiny(family)
    return generate(model, family.tiny_inputs(model, rows))


@cache
def apart(family: Family) -> nn.Module:
    """The same model once more, for promises about what a context leaves behind: on `tiny` an earlier one may have.

    It has run with a static cache, which leaves marks of its own.
    """
    model = family.tiny(0)
    generate(model, family.tiny_inputs(model, ONE), cache_implementation="static")
    return model


def with_positions(method: Method, positions: str) -> Method:
    """The method under another position policy."""
    return method.replaced(positions=positions)


def identity(method: Method) -> Method:
    """The method set so that it keeps everything: keep = 1, and schedules that remove nothing."""
    if method.parts:
        return method.replaced(**{part: identity(getattr(method, part)) for part in method.parts})
    changes: dict[str, Any] = {"keep": 1.0}
    changes |= {name: Linear(0.0) for name, value in method.settings().items() if isinstance(value, Schedule)}
    return method.replaced(**changes)


def generate(model: nn.Module, inputs: dict[str, Any], **options: Any) -> Any:
    """Greedy answer of NEW tokens with logits and cache."""
    placeholders = [
        i for n in ("image_token_id", "video_token_id") if (i := getattr(model.config, n, None)) is not None
    ]
    defaults = dict(
        max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, return_dict_in_generate=True, output_logits=True,
        suppress_tokens=placeholders,
    )  # fmt: skip
    with torch.no_grad():
        return model.generate(**inputs, **defaults | options)


def answer(case: Case, inputs: dict[str, Any], method: Method | None = None, **options: Any) -> tuple[Any, Run]:
    """A compressed answer, and the run."""
    with compress(case.model, method or case.method) as run:
        return generate(case.model, inputs, **options), run


def text_of(out: Any, inputs: dict[str, Any]) -> Tensor:
    """The generated ids."""
    return out.sequences[:, inputs["input_ids"].shape[1] :]


# ── the promises ─────────────────────────────────────────────────────────────────────────────────────────────────


def what_its_pieces_give_is_well_formed(case: Case) -> None:
    """Scores, choices, merges and budgets have the right form, are repeatable, and treat each image by itself."""
    answer(case, case.inputs([[(6, 8), (6, 8)], [(5, 5)]]), Watched(case.method), **BRIEF)


def keeping_all_is_the_identity(case: Case) -> None:
    """Kept whole, logits are bit-identical and so are generated ids."""
    plain = uncompressed(case.family, UNEQUAL)
    same, run = answer(case, case.inputs(UNEQUAL), identity(case.method))
    assert run.trace.plans, "the images were not seen"
    cut = [f"keep {s.words()[1]} at {s.at}" for s in run.steps if s.highest < 1]
    assert not cut, f"with keep=1 it still cuts ({', '.join(cut)}): let each fraction follow `keep`"
    assert torch.equal(plain.sequences, same.sequences), "generated ids differ with keep=1"
    assert all(map(torch.equal, plain.logits, same.logits)), "logits are not bit-identical with keep=1"


def counts_are_the_planned_ones(case: Case) -> None:
    """Each layer's cache holds what was planned, kept indices ascend, no token of text is lost."""
    inputs = case.inputs(ONE)
    out, run = answer(case, inputs)
    text = inputs["input_ids"].shape[1] - run.trace.visual_tokens
    lengths = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    forgets = max((s.at.layer for s in run.steps if s.cache == "all"), default=0)
    held = [run.trace.tokens_per_layer[max(i, forgets)] for i in range(len(lengths))]
    for choice in run.trace.recalled:  # the last one holds
        held[choice.layer :] = [int(choice.shown.sum()) - text] * len(held[choice.layer :])
    assert lengths == [n + text + NEW - 1 for n in held], "the caches do not hold what was kept"
    _as_planned(run)
    assert min(run.trace.tokens_per_layer) < run.trace.visual_tokens, "nothing was removed"


def videos_of_any_length_are_cut_as_planned(case: Case) -> None:
    """One frame, two, an odd number, a prime one: counts are the planned ones, pieces give what they must."""
    for frames in FRAMES if case.reads_videos else ():
        with compress(case.model, Watched(case.method)) as run, torch.no_grad():
            case.model(**case.inputs([[(frames, 5, 3)]]))
        _as_planned(run)


def a_batch_equals_its_rows(case: Case) -> None:
    """Left padding, unequal images, several images a row, a row without any: as if each row ran alone."""
    _equals_its_rows(case, SEVERAL)


def videos_beside_videos_and_images_run_as_alone(case: Case) -> None:
    """Two videos in one prompt, an image and a video in another: as if each prompt ran alone, and as if masked."""
    if case.reads_videos:
        _equals_its_rows(case, VIDEOS)
        _equals_masking(case, case.inputs(VIDEOS))


def _as_planned(run: Run) -> None:
    got, planned = run.trace.tokens_per_layer, run.trace.plan.per_layer
    if any(isinstance(s.keep, Budget) for s in run.steps):
        rounding = len(got) * len(run.trace.plan.grids) / 2
        assert sum(got) <= sum(planned) + rounding, "a budget that follows the content keeps more than was planned"
    else:
        assert tuple(got) == planned, "the counts are not the planned ones"
    for cut in run.trace.cuts:
        kept = cut.reduction.kept[0]
        assert (kept.diff() > 0).all(), "kept indices do not ascend"
        rank = torch.arange(len(kept))
        assert torch.equal(cut.reduction.source[0, kept], rank), "a survivor does not stand for itself"


def _equals_its_rows(case: Case, rows: Any) -> None:
    both, _ = answer(case, case.inputs(rows))
    for i in range(len(rows)):
        alone_inputs = _only_row(case, rows, i)
        alone, _ = answer(case, alone_inputs)
        got = text_of(both, case.inputs(rows))[i]
        assert torch.equal(got, text_of(alone, alone_inputs)[0]), (
            f"row {i} of the batch answers differently from itself"
        )
        close = max((a[i] - b[0]).abs().max().item() for a, b in zip(both.logits, alone.logits, strict=True))
        assert close < 1e-4, f"logits of row {i} differ by {close:.1e} between the batch and the row alone"


def beams_equal_beams_of_single_rows(case: Case) -> None:
    """Beam search works, and a batch of it equals its rows."""
    rows = UNEQUAL
    inputs = case.inputs(rows)
    both, _ = answer(case, inputs, num_beams=3, output_logits=False)
    for i in range(len(rows)):
        alone_inputs = _only_row(case, rows, i)
        alone, _ = answer(case, alone_inputs, num_beams=3, output_logits=False)
        assert torch.equal(text_of(both, inputs)[i], text_of(alone, alone_inputs)[0]), f"beams of row {i} differ"


def removal_equals_masking(case: Case) -> None:
    """Prefill and decoding give the logits of one teacher-forced forward in which dropped tokens are only hidden."""
    _equals_masking(case, case.inputs(UNEQUAL))


def _equals_masking(case: Case, inputs: dict[str, Any]) -> None:
    with compress(case.model, case.keeping()) as run, entering(run) as entered:
        out = generate(case.model, inputs)
    reference = masked_logits(case.model, run, entered, inputs, text_of(out, inputs))
    got = torch.stack(out.logits, dim=1)
    close = (got - reference).abs().max().item()
    assert close < 2e-4, f"logits differ by {close:.1e} from the same tokens hidden by masks"


def leaving_restores_the_model(case: Case) -> None:
    """No hook, name or attribute is left, also after an exception; the context can be entered again."""
    inputs, model = case.inputs(ONE), apart(case.family)
    before = _state(model)
    for _ in range(2):
        try:
            with compress(model, case.method):
                generate(model, inputs, **BRIEF)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert _state(model) == before, "the model is not as it was"
    assert torch.equal(generate(model, inputs).sequences, uncompressed(case.family, ONE).sequences)


def the_same_again(case: Case) -> None:
    """Same input, same result; a second prompt in one context does not see the first."""
    inputs, other = case.inputs(ONE), case.inputs(UNEQUAL, seed=1)
    with compress(case.model, case.method):
        first = generate(case.model, inputs)
        generate(case.model, other, **BRIEF)
        again = generate(case.model, inputs)
    assert all(map(torch.equal, first.logits, again.logits)), "the second run differs from the first"


def without_an_image_nothing_happens(case: Case) -> None:
    """A prompt without visual tokens runs as if the context were not there."""
    plain = uncompressed(case.family, NONE)
    same, run = answer(case, case.inputs(NONE))
    assert all(map(torch.equal, plain.logits, same.logits)), "a prompt without images changed"
    assert not run.trace.plans and not run.trace.cuts


def the_question_changes_only_what_reads_it(case: Case) -> None:
    """A method that cuts before the language model and reads no text keeps the same tokens whatever is asked."""
    shape = case.family.shape(case.model.config)
    if any(isinstance(s.at, Layer) or s.needs_text for s in case.method.steps(shape)):
        return
    one, other = case.inputs(ONE, seed=0), case.inputs(ONE, seed=0)
    other["input_ids"] = other["input_ids"].clone()
    other["input_ids"][:, -8:] = other["input_ids"][:, -8:].flip(1)
    (_, a), (_, b) = answer(case, one, **BRIEF), answer(case, other, **BRIEF)
    for left, right in zip(a.trace.cuts, b.trace.cuts, strict=True):
        assert torch.equal(left.reduction.kept, right.reduction.kept), "the selection follows the question"


def wrong_use_is_refused(case: Case) -> None:
    """A static cache is refused with a reason, and the model is left as it was."""
    model = apart(case.family)
    before = _state(model)
    try:
        with compress(model, case.method):
            generate(model, case.inputs(ONE), cache_implementation="static")
    except UnsupportedInput as error:
        assert "DynamicCache" in str(error)
    else:
        raise AssertionError("a static cache was not refused")
    assert _state(model) == before, "the model is not as it was"


Promise = Callable[[Case], None]
PROMISES: tuple[Promise, ...] = (
    what_its_pieces_give_is_well_formed,
    keeping_all_is_the_identity,
    counts_are_the_planned_ones,
    videos_of_any_length_are_cut_as_planned,
    a_batch_equals_its_rows,
    videos_beside_videos_and_images_run_as_alone,
    beams_equal_beams_of_single_rows,
    removal_equals_masking,
    leaving_restores_the_model,
    the_same_again,
    without_an_image_nothing_happens,
    the_question_changes_only_what_reads_it,
    wrong_use_is_refused,
)


def check_method(method: Method | type) -> None:
    """Run all promises on all families; raises AssertionError that says, in words, which are broken, why and where.

    A family the method cannot run on is skipped if it says why (a FoveateError when its steps are checked); it must run
    on one. Where its pieces give something malformed, the promises that build on them are not run.
    """
    instance = made(method)
    judge([Case(family, instance) for family in sorted(set(families().values()), key=lambda f: f.title)], PROMISES)


def _only_row(case: Case, rows: Any, i: int) -> dict[str, Any]:
    """Row `i` of the batch as a batch of its own: its unpadded tokens and its own images."""
    return case.inputs(rows[i : i + 1], first=i)


def _state(model: nn.Module) -> Any:
    """Everything a context may touch."""
    hooks = {n: (len(m._forward_pre_hooks), len(m._forward_hooks)) for n, m in model.named_modules()}
    names = {n: set(vars(m)) for n, m in model.named_modules()}
    configs = [m.config._attn_implementation for m in model.modules() if getattr(m, "config", None) is not None]
    return hooks, names, configs
