"""What a method states of its own work is what the engine does: counted with the method, nothing is left to explain."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveate import all_methods, compress
from foveate.compose import TwoStage
from foveate.cost.count import decode, operations
from foveate.cost.hf import arch_of
from foveate.cost.ledger import ledger_of, ledgers_of
from foveate.cost.ops import of_part, total_flops
from foveate.cost.tokens import Grid, Prompt, Visual
from foveate.errors import FoveateError
from foveate.families import families
from foveate.method import Card, Method, get_method
from foveate.ops.schedule import Explicit
from foveate.pieces import (
    Adaptive,
    Bias,
    BipartiteMerge,
    Cls,
    Complexity,
    ContextualMean,
    DensityPeaks,
    DistanceBias,
    Hybrid,
    LastQuery,
    MaxMin,
    NearestMean,
    Norm,
    PageRank,
    Read,
    Received,
    Saliency,
    TextRows,
    VisionReceived,
)
from foveate.plan import Block, Layer, ModelShape, Projector, Step, Vision, check_steps

FAMILIES = {f.model_types[0]: f for f in families().values()}
# one of each kind: a CLS token, views with newlines, windows and M-RoPE
KINDS = ("llava", "llava_onevision", "qwen2_5_vl")
ONE, TWO, MOVIE = [[(4, 6)]], [[(4, 6)], [(4, 6)]], [[(3, 4, 5)]]
WORDS = 8


@functools.cache
def model_of(family):
    model = FAMILIES[family].tiny()
    model.set_attn_implementation("eager")  # the fused kernel of the CPU is not counted
    return model


@functools.cache
def prompt_of(family, batch, size):
    """The prompt of `tiny_inputs` in tokens, as the engine, the tower and the ids show it; one image or video a row."""
    rows = [[size]] * batch
    model, adapter = model_of(family), FAMILIES[family]
    inputs, core, seen = adapter.tiny_inputs(model, rows, text=WORDS), adapter.core(model), []

    def remember(module, args, kwargs):
        given = kwargs.get("pixel_values", args[0] if args else None)
        seen.append(kwargs["grid_thw"].tolist() if "grid_thw" in kwargs else given.shape)

    tower = core.visual if hasattr(core, "visual") else core.vision_tower
    hook = tower.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        with compress(model, "uniform", keep=1.0) as run:
            model(**inputs)
    finally:
        hook.remove()
    patch = arch_of(model.config).tower.patch
    if isinstance(seen[0], list):
        patches = tuple(Grid(*thw) for thw in seen[0][: len(seen[0]) // batch])
    else:
        pictures, _, height, width = seen[0]
        patches = (Grid(pictures // batch, height // patch, width // patch),)
    grids = tuple(Grid(g.t, g.h, g.w) for g in run.trace.plan.grids)
    placeholders = list(adapter.image_token_ids(core.config).values())
    behind = int((~torch.isin(inputs["input_ids"][0], torch.tensor(placeholders))).flip(0).cumprod(0).sum())
    visual = Visual("image", patches, grids)
    return inputs, Prompt((visual,), run.trace.text_tokens // batch, batch, behind)


def compare(family, method, rows):
    model, (inputs, prompt) = model_of(family), prompt_of(family, len(rows), rows[0][0])
    arch = arch_of(model.config)
    low, ledger = ledgers_of(method, arch, prompt)
    ops = operations(arch, prompt, ledger)
    with compress(model, method) as run, FlopCounterMode(display=False) as counter:
        model(**inputs, logits_to_keep=1)
    tokens = run.trace.tokens_per_layer
    if low == ledger:
        assert tokens == [prompt.batch * n for n in ledger.visual]
        assert total_flops(ops, full=True) == counter.get_total_flops()
    else:
        pairs = zip(low.visual, tokens, ledger.visual, strict=True)
        assert all(prompt.batch * a <= n <= prompt.batch * b for a, n, b in pairs)
        assert total_flops(operations(arch, prompt, low), full=True) <= counter.get_total_flops()
        assert counter.get_total_flops() <= total_flops(ops, full=True)
    return run, ledger


def rows_of(family, rows):
    return [[(4, 4)]] * len(rows) if family == "llava" else rows


def able(family, method):
    """Whether a family can run a method."""
    shape = FAMILIES[family].shape(model_of(family).config)
    try:
        check_steps(method.steps(shape), shape)
    except FoveateError:
        return False
    return True


@pytest.mark.parametrize("number", range(len(all_methods())), ids=sorted(all_methods()))
def test_every_method(number):
    """Each on two families that can run it; the next method on the next two."""
    method = get_method(sorted(all_methods())[number])
    runs = [f for f in sorted(FAMILIES) if able(f, method)]
    assert runs
    for family in {runs[(number + i) % len(runs)] for i in range(2)}:
        compare(family, method, rows_of(family, ONE))


@pytest.mark.parametrize("name", ["aim", "fastv", "pyramiddrop", "visionzip"])
@pytest.mark.parametrize("rows", [TWO, MOVIE], ids=["batch", "video"])
def test_batches_and_videos(name, rows):
    for family in KINDS:
        if rows is TWO or "video" in FAMILIES[family].image_token_ids(model_of(family).config):
            compare(family, get_method(name), rows_of(family, rows))


@dataclass(frozen=True)
class Steps(Method):
    """Steps as given."""

    each: tuple[Step, ...]
    keep: float = 0.5
    bias: Bias | None = None

    card = Card("steps", "for tests")

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield from self.each


NEXT = {"place": "next"}
WHOLE = {"per": "prompt"}
CUTS = {
    "text ahead": (Step(Layer(2), 0.5, Read(TextRows(**NEXT)), **WHOLE),),
    "all rows ahead": (Step(Layer(2), 0.5, Read(Received(**NEXT)), **WHOLE),),
    "text before": (Step(Layer(2), 0.5, Hybrid(Read(TextRows())), **WHOLE), Step(Layer(5), 0.0, Norm(), **WHOLE)),
    "received": (Step(Layer(1), 0.6, Read(Received()), **WHOLE), Step(Layer(2), 0.3, Read(PageRank()), **WHOLE)),
    "twice": (Step(Layer(3), 0.5, Read(LastQuery()), **WHOLE), Step(Layer(6), 0.2, Read(LastQuery()), **WHOLE)),
    "clusters": (Step(Projector(), 0.4, select=DensityPeaks(), merge=NearestMean()),),
    "farthest, then merged": (Step(Projector(), 0.5, select=MaxMin(centre=True), merge=BipartiteMerge()),),
    "in the tower": (Step(Vision(0), 0.5, Saliency(), merge=ContextualMean()),),
    "in the tower, for a layer": (Step(Layer(2), 0.2, Read(VisionReceived())),),
    "leaving in the tower": (
        Step(Block(1), 0.7, Read(Cls()), merge=NearestMean()),
        Step(Block(2), 0.4, Norm(), MaxMin()),
        Step(Projector(), 0.3, Norm()),
    ),
    "per frame": (Step(Projector(), 0.5, Norm(), merge=BipartiteMerge(), per="frame"),),
    "views": (Step(Projector(), 0.5, Norm(), merge=NearestMean(), per="views"),),
    "nothing to remove": (Step(Layer(2), 1.0, Read(TextRows(**NEXT)), **WHOLE),),
    "forgotten": (Step(Layer(3), 0.5, Norm(), cache="all", **WHOLE), Step(Layer(5), 0.25, Norm(), **WHOLE)),
}


@pytest.mark.parametrize("cuts", CUTS)
def test_every_kind_of_step(cuts):
    for family in KINDS:
        movie = cuts == "per frame"
        if movie and "video" not in FAMILIES[family].image_token_ids(model_of(family).config):
            continue
        if able(family, Steps(CUTS[cuts])):
            compare(family, Steps(CUTS[cuts]), rows_of(family, MOVIE if movie else ONE))


def test_a_bias_that_follows_the_distance_has_its_products():
    cuts = (Step(Projector(), 0.6, Norm()), Step(Layer(3), 0.3, Norm(), per="prompt"))
    for family in KINDS:
        compare(family, Steps(cuts, bias=DistanceBias()), rows_of(family, TWO))


def test_an_adaptive_method_lies_between_its_ends():
    cuts = (Step(Projector(), Adaptive(Complexity(), 0.2, 0.7), Norm()), Step(Layer(3), 0.1, Norm(), per="prompt"))
    for family in KINDS:
        compare(family, Steps(cuts), rows_of(family, ONE))


def test_decoding_after_it_sees_what_each_cache_holds():
    for method in (
        get_method("fastv"),
        Steps(CUTS["forgotten"]),
        TwoStage(get_method("divprune", keep=0.5), get_method("fastv")),
    ):
        run, ledger = compare("qwen2_5_vl", method, ONE)
        arch = arch_of(run.model.config)
        inputs = run.family.tiny_inputs(run.model, ONE, text=WORDS)
        with compress(run.model, method):
            cache = run.model(**inputs, use_cache=True).past_key_values
            length = inputs["input_ids"].shape[1]
            assert [layer.keys.shape[2] for layer in cache.layers] == list(ledger.kept)
            mask = torch.ones(1, length + 1, dtype=torch.long)
            with FlopCounterMode(display=False) as counter:
                run.model(input_ids=torch.tensor([[7]]), attention_mask=mask, past_key_values=cache, use_cache=True)
        assert total_flops(decode(arch, ledger, 1, 1)) == counter.get_total_flops()


def test_words_for_a_compression_mean_what_the_objects_mean(tmp_path):
    from foveate.recipe import Recipe

    arch = arch_of("qwen2.5-vl-3b")
    prompt = Prompt((Visual("image", (Grid(1, 32, 32),), (Grid(1, 16, 16),), 2, 1),), 40)
    method = get_method("progressive", keep=0.3)
    Recipe.of(method).save(tmp_path / "r.yaml")
    ledger = ledger_of(method, arch, prompt)
    assert ledger_of(tmp_path / "r.yaml", arch, prompt) == ledger == ledger_of(str(tmp_path / "r.yaml"), arch, prompt)
    assert ledger_of("fastv", arch, prompt) == ledger_of(get_method("fastv"), arch, prompt)
    assert ledger_of(list(ledger.visual), arch, prompt).visual == ledger.visual
    assert not ledger_of(list(ledger.visual), arch, prompt).method_ops
    greedy = ledger_of(get_method("divprune", keep=0.25), arch, prompt).method_ops
    assert max(op.repeat for op in greedy) == 64
    assert list(of_part(greedy, "method")) == list(greedy)
    assert Explicit((1.0,)) and ledger.t_eq == sum(ledger.visual) / 36
