"""The promises every method keeps on every family, importable: `check_method(MyMethod())` says in words what is broken.

Each promise is a function of a `Case` that raises AssertionError; `PROMISES` lists them. They run on small random
models, on the CPU, in seconds, and need no download.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .engine.masks import decay
from .engine.run import Run, compress
from .errors import UnsupportedInput
from .families import families
from .families.base import Family
from .form import Watched, judge, made
from .method import Method
from .ops.schedule import Linear, Schedule
from .pieces.merges import Drop
from .plan import Layer

#: sizes of the images of each row, in LLM tokens; families with one fixed size ignore them
ONE = [[(6, 8)]]
UNEQUAL = [[(6, 8)], [(4, 5)]]
SEVERAL = [[(6, 8), (4, 5)], [(5, 5)], []]
NEW = 5


@dataclass(frozen=True)
class Case:
    """A method on a family."""

    family: Family
    method: Method

    @property
    def model(self) -> nn.Module:
        """A small random model, shared by all cases of the family."""
        return tiny(self.family)

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
    answer(case, case.inputs([[(6, 8), (6, 8)], [(5, 5)]]), Watched(case.method))


def keeping_all_is_the_identity(case: Case) -> None:
    """Kept whole, logits are bit-identical and so are generated ids."""
    inputs = case.inputs(UNEQUAL)
    plain = generate(case.model, inputs)
    same, run = answer(case, inputs, identity(case.method))
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
    assert lengths == [n + text + NEW - 1 for n in run.trace.tokens_per_layer], "the caches do not hold what was kept"
    assert tuple(run.trace.tokens_per_layer) == run.trace.plan.per_layer, "the counts are not the planned ones"
    assert min(run.trace.tokens_per_layer) < run.trace.visual_tokens, "nothing was removed"
    for cut in run.trace.cuts:
        kept = cut.reduction.kept[0]
        assert (kept.diff() > 0).all(), "kept indices do not ascend"
        rank = torch.arange(len(kept))
        assert torch.equal(cut.reduction.source[0, kept], rank), "a survivor does not stand for itself"


def a_batch_equals_its_rows(case: Case) -> None:
    """Left padding, unequal images, several images a row, a row without any: as if each row ran alone."""
    rows = SEVERAL
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
    inputs = case.inputs(UNEQUAL)
    method = case.keeping()
    with compress(case.model, method) as run, _entering(run) as entered:
        out = generate(case.model, inputs)
    reference = masked_logits(case, run, entered, inputs, text_of(out, inputs))
    got = torch.stack(out.logits, dim=1)
    close = (got - reference).abs().max().item()
    assert close < 2e-4, f"logits differ by {close:.1e} from the same tokens hidden by masks"


def leaving_restores_the_model(case: Case) -> None:
    """No hook, name or attribute is left, also after an exception; the context can be entered again."""
    inputs = case.inputs(ONE)
    plain = generate(case.model, inputs)
    before = _state(case.model)
    for _ in range(2):
        try:
            with compress(case.model, case.method):
                generate(case.model, inputs)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert _state(case.model) == before, "the model is not as it was"
    assert torch.equal(generate(case.model, inputs).sequences, plain.sequences)


def the_same_again(case: Case) -> None:
    """Same input, same result; a second prompt in one context does not see the first."""
    inputs, other = case.inputs(ONE), case.inputs(UNEQUAL, seed=1)
    with compress(case.model, case.method):
        first = generate(case.model, inputs)
        generate(case.model, other)
        again = generate(case.model, inputs)
    assert all(map(torch.equal, first.logits, again.logits)), "the second run differs from the first"


def without_an_image_nothing_happens(case: Case) -> None:
    """A prompt without visual tokens runs as if the context were not there."""
    inputs = case.inputs([[], []])
    plain = generate(case.model, inputs)
    same, run = answer(case, inputs)
    assert all(map(torch.equal, plain.logits, same.logits)), "a prompt without images changed"
    assert not run.trace.plans and not run.trace.cuts


def the_question_changes_only_what_reads_it(case: Case) -> None:
    """A method that cuts before the language model keeps the same tokens whatever is asked."""
    shape = case.family.shape(case.model.config)
    if any(isinstance(s.at, Layer) for s in case.method.steps(shape)):
        return
    one, other = case.inputs(ONE, seed=0), case.inputs(ONE, seed=0)
    other["input_ids"] = other["input_ids"].clone()
    other["input_ids"][:, -8:] = other["input_ids"][:, -8:].flip(1)
    (_, a), (_, b) = answer(case, one), answer(case, other)
    for left, right in zip(a.trace.cuts, b.trace.cuts, strict=True):
        assert torch.equal(left.reduction.kept, right.reduction.kept), "the selection follows the question"


def wrong_use_is_refused(case: Case) -> None:
    """A static cache is refused with a reason, and the model is left as it was."""
    generate(case.model, case.inputs(ONE), cache_implementation="static")  # leaves marks of its own on the model
    before = _state(case.model)
    try:
        answer(case, case.inputs(ONE), cache_implementation="static")
    except UnsupportedInput as error:
        assert "DynamicCache" in str(error)
    else:
        raise AssertionError("a static cache was not refused")
    assert _state(case.model) == before


Promise = Callable[[Case], None]
PROMISES: tuple[Promise, ...] = (
    what_its_pieces_give_is_well_formed,
    keeping_all_is_the_identity,
    counts_are_the_planned_ones,
    a_batch_equals_its_rows,
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


# ── the reference: hide instead of remove ────────────────────────────────────────────────────────────────────────


def masked_logits(
    case: Case, run: Run, entered: dict[int, Tensor], inputs: dict[str, Any], generated: Tensor
) -> Tensor:
    """Logits [B, NEW, V] of prompt and answer in one forward on all tokens, with the dropped ones hidden by masks.

    Works from the trace alone: which columns each layer may see, and how much they weigh under the method's bias,
    follows from the cuts; `entered` is what entered the layers behind a cut that merged, so that merged features are
    those of the run.
    """
    model, decoder = case.model, run.decoder
    length = inputs["input_ids"].shape[1]
    sights = sights_of(run, inputs)
    remembered = _remembered(run, [s.columns for s in sights])
    valid = torch.cat([inputs["attention_mask"].bool(), generated.new_ones(generated.shape).bool()], 1)
    full = dict(inputs, input_ids=torch.cat([inputs["input_ids"], generated], 1), attention_mask=valid.long())
    if "mm_token_type_ids" in full:
        full["mm_token_type_ids"] = torch.cat([full["mm_token_type_ids"], torch.zeros_like(generated).int()], 1)
    full["position_ids"] = _positions(model, full)
    total = valid.shape[1]
    causal = torch.ones(total, total, dtype=torch.bool).tril()
    in_prefill = (torch.arange(total) < length)[:, None]

    def replaced(hidden: Tensor, i: int) -> Tensor:
        hidden = hidden.clone()
        for row, columns in enumerate(sights[i].columns):
            stay = columns.nonzero()[:, 0]
            hidden[row, stay] = entered[i][row, entered[i].shape[1] - len(stay) :]
        return hidden

    def with_door(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
        return args, {**kwargs, "inputs_embeds": replaced(kwargs["inputs_embeds"], 0)}

    def with_mask(i: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
            prompt = torch.where(in_prefill, sights[i].columns[:, None], remembered[i][:, None])
            keys = torch.cat([prompt, prompt.new_ones(len(valid), total, total - length)], 2) & valid[:, None]
            allowed = (causal & keys) | torch.eye(total, dtype=torch.bool)
            mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
            if run.bias is not None and sights[i].is_cut:
                size = nn.functional.pad(sights[i].size, (0, total - length), value=1.0)
                rotary = run.family.rotary(module, kwargs["position_embeddings"])
                mask = mask + run.bias(size[:, None], decay(rotary, total))
            kwargs = {**kwargs, "attention_mask": mask[:, None].clamp(min=torch.finfo(torch.float32).min)}
            if i > 0 and i in entered:
                hidden = replaced(args[0] if args else kwargs["hidden_states"], i)
                return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
            return args, kwargs

        return hook

    with ExitStack() as undo, torch.no_grad():
        undo.callback(decoder.register_forward_pre_hook(with_door, with_kwargs=True).remove)
        for i, layer in enumerate(decoder.layers):
            undo.callback(layer.register_forward_pre_hook(with_mask(i), with_kwargs=True).remove)
        logits = model(**full).logits
    return logits[:, length - 1 : -1]


@dataclass(frozen=True)
class Sight:
    """What a layer ran on: prompt columns [B, L], how many original tokens each stands for, whether any was cut."""

    columns: Tensor
    size: Tensor
    is_cut: bool


def sights_of(run: Run, inputs: dict[str, Any]) -> list[Sight]:
    """What each layer of the language model ran on, from the trace of the run."""
    now = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    size = torch.ones_like(now, dtype=torch.float32)
    alive: dict[tuple, Tensor] = {}
    layers: list[Sight] = []
    for i in range(run.shape.layers):
        cuts = [cut for cut in run.trace.cuts if cut.step.at.layer == i]
        for cut in cuts:
            before = torch.cat([alive.get((cut.sample, s), torch.tensor(s.columns())) for s in cut.spans])
            after = before[cut.reduction.kept[0]]
            now[cut.sample, before] = False
            now[cut.sample, after] = True
            size[cut.sample, after] = cut.reduction.size[0]
            for span in cut.spans:
                own = set(span.columns())
                alive[cut.sample, span] = torch.tensor([c for c in after.tolist() if c in own], dtype=torch.long)
        layers.append(Sight(now.clone(), size.clone(), bool(cuts) or (bool(layers) and layers[-1].is_cut)))
    return layers


def _remembered(run: Run, seen: list[Tensor]) -> list[Tensor]:
    """For each layer the prompt columns its cache holds while decoding: fewer where all layers forget a cut."""
    last = max((s.at.layer for s in run.steps if s.cache == "all" and isinstance(s.at, Layer)), default=0)
    return [columns & seen[last] for columns in seen[:last]] + seen[last:]


@contextmanager
def _entering(run: Run) -> Iterator[dict[int, Tensor]]:
    """What enters layer 0, and each layer before which a step merges, in the prefill."""
    merging = {s.at.layer for s in run.steps if isinstance(s.at, Layer) and not isinstance(s.merge, Drop)}
    entered: dict[int, Tensor] = {}

    def hook(i: int, name: str) -> Callable:
        def look(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs[name]
            if hidden.shape[1] > 1:
                entered.setdefault(i, hidden.clone())

        return look

    with ExitStack() as undo:
        door = run.decoder.register_forward_pre_hook(hook(0, "inputs_embeds"), with_kwargs=True)
        undo.callback(door.remove)
        for i in merging - {0}:
            layer = run.decoder.layers[i]
            undo.callback(layer.register_forward_pre_hook(hook(i, "hidden_states"), with_kwargs=True).remove)
        yield entered


def _positions(model: nn.Module, full: dict[str, Any]) -> Tensor | None:
    """Position ids of prompt and answer, as `generate` would give them."""
    core = model.base_model
    if hasattr(core, "get_rope_index"):
        names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts", "mm_token_type_ids", "attention_mask")
        return core.get_rope_index(full["input_ids"], **{n: full[n] for n in names if n in full})[0]
    return (full["attention_mask"].cumsum(1) - 1).clamp(min=0)


def _only_row(case: Case, rows: Any, i: int) -> dict[str, Any]:
    """Row `i` of the batch as a batch of its own: its unpadded tokens and its own images."""
    every = case.inputs(rows)
    mask = every["attention_mask"][i].bool()
    one = {k: every[k][i : i + 1, mask] for k in ("input_ids", "attention_mask", "mm_token_type_ids") if k in every}
    first = sum(len(r) for r in rows[:i])
    mine = slice(first, first + len(rows[i]))
    if "image_grid_thw" in every and rows[i]:
        per = every["image_grid_thw"].prod(-1).tolist()
        one["pixel_values"] = every["pixel_values"].split(per)
        one["pixel_values"] = torch.cat(one["pixel_values"][mine])
        one["image_grid_thw"] = every["image_grid_thw"][mine]
    elif rows[i]:
        one["pixel_values"] = every["pixel_values"][mine]
        if "image_sizes" in every:
            one["image_sizes"] = every["image_sizes"][mine]
            one["batch_num_images"] = torch.tensor([len(rows[i])])
    return one


def _state(model: nn.Module) -> Any:
    """Everything a context may touch."""
    hooks = {n: (len(m._forward_pre_hooks), len(m._forward_hooks)) for n, m in model.named_modules()}
    names = {n: set(vars(m)) for n, m in model.named_modules()}
    configs = [m.config._attn_implementation for m in model.modules() if getattr(m, "config", None) is not None]
    return hooks, names, configs
