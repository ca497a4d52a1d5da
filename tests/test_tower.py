"""Cuts inside the vision tower: fewer patches really run, and the features are those of a masked tower."""

from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import torch

from foveate import Card, Method, compress
from foveate.errors import InvalidValue
from foveate.families import families
from foveate.pieces import BipartiteMerge, Cls, EvenGrid, Norm, Read, SizeBias
from foveate.plan import Block, Layer, Projector, Step, Vision, check_steps
from foveate.testing import PROMISES, Case, generate, tiny

LLAVA = families()["llava"]


@dataclass(frozen=True)
class InTower(Method):
    """Two cuts inside the tower, and one in the language model."""

    keep: float = 0.5
    merge: bool = True
    bias: object = None
    positions: str | None = None

    card = Card("in-tower", "for tests")

    def steps(self, model):
        merge = {"select": EvenGrid(), "merge": BipartiteMerge()} if self.merge else {"score": Read(Cls())}
        yield Step(Block(1), (1 + self.keep) / 2, **merge)
        yield Step(Block(2), self.keep, **merge)
        yield Step(Layer(3), self.keep / 2 if self.keep < 1 else 1.0, Norm(), per="prompt")


@pytest.mark.parametrize("promise", PROMISES, ids=lambda p: p.__name__)
@pytest.mark.parametrize(
    "method", [InTower(), InTower(merge=False), InTower(bias=SizeBias())], ids=["merge", "drop", "bias"]
)
def test_promise(method, promise):
    promise(Case(LLAVA, method))


def patches_per_block(model, inputs, method):
    seen, tower = [], model.model.vision_tower
    layers = getattr(tower, "vision_model", tower).encoder.layers
    handles = [m.mlp.register_forward_hook(lambda m, a, o: seen.append(o.shape[1])) for m in layers]
    try:
        with compress(model, method) as run:
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen, run


def test_later_blocks_run_on_fewer_patches_and_the_language_model_too():
    model = tiny(LLAVA)
    seen, run = patches_per_block(model, LLAVA.tiny_inputs(model, [[(4, 4)], [(4, 4)]]), InTower())
    assert seen == [17, 13, 9, 9]
    assert run.trace.tokens_per_layer == [16, 16, 16, 8, 8, 8, 8, 8]
    assert [c.reduction.kept.shape[1] for c in run.trace.cuts] == [8, 8, 4, 4]


def cls_attention(block, hidden, visible):
    """Attention of the CLS row, head mean, with hidden keys left out."""
    h, attention = block.layer_norm1(hidden), block.self_attn
    split = lambda x: x.view(x.shape[1], attention.num_heads, -1).transpose(0, 1)
    q, k = split(attention.q_proj(h)), split(attention.k_proj(h))
    logits = (q[:, :1] @ k.transpose(1, 2))[:, 0] * attention.scale
    return logits.masked_fill(~visible, -torch.inf).softmax(-1).mean(0)


def test_survivors_of_the_tower_are_those_of_a_masked_tower():
    """A second path: all patches run, and the keys of dropped ones are hidden by a mask."""
    model = tiny(LLAVA)
    inputs = LLAVA.tiny_inputs(model, [[(4, 4)]], seed=4)
    core, tower = model.model, model.model.vision_tower
    blocks = getattr(tower, "vision_model", tower).encoder.layers
    inside, entered = [], []

    def keep_in(store, name):
        return lambda m, args, kwargs: store.append(args[0] if args else kwargs[name])

    with ExitStack() as undo:
        hook = blocks[0].register_forward_pre_hook(keep_in(inside, "hidden_states"), with_kwargs=True)
        undo.callback(hook.remove)
        run = undo.enter_context(compress(model, InTower(merge=False)))
        # placed after the context's own hook, so that it sees what enters layer 0
        hook = core.language_model.register_forward_pre_hook(keep_in(entered, "inputs_embeds"), with_kwargs=True)
        undo.callback(hook.remove)
        model(**inputs)
    hidden = before = inside[0]
    visible = torch.ones(17, dtype=torch.bool)
    for b, count in ((0, 16), (1, 12), (2, 8)):
        if b:
            score = cls_attention(blocks[b - 1], before, visible).masked_fill(~visible, -1)[1:]
            visible = torch.zeros(17, dtype=torch.bool).index_fill(0, score.topk(count).indices + 1, True)
            visible[0] = True
        before = hidden
        mask = torch.zeros(17).masked_fill(~visible, torch.finfo(torch.float32).min)
        out = blocks[b](hidden, attention_mask=mask[None, None, None].expand(1, 1, 17, 17))
        hidden = out if torch.is_tensor(out) else out[0]
    kept = visible[1:].nonzero()[:, 0]
    assert torch.equal(run.trace.cuts[0].reduction.kept[0], kept)
    expected = core.multi_modal_projector(hidden[:, 1:])[0, kept]
    start = run.trace.cuts[0].spans[0].start
    torch.testing.assert_close(entered[0][0, start : start + 8], expected, atol=1e-5, rtol=1e-4)


def test_where_patches_are_merged_later_the_tower_cannot_be_cut():
    for name in ("qwen2_5_vl", "llava_onevision"):
        shape = families()[name].shape(tiny(families()[name]).config)
        with pytest.raises(InvalidValue, match="after the projector"):
            check_steps(InTower().steps(shape), shape)


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        ((Step(Projector(), 0.5, Norm()), Step(Block(1), 0.4, Norm())), "come first"),
        ((Step(Block(2), 0.5, Norm()), Step(Block(2), 0.4, Norm())), "go forward"),
        ((Step(Block(0), 0.5, Norm()),), "blocks 0 to 2"),
        ((Step(Block(3), 0.5, Norm()),), "blocks 0 to 2"),
        ((Step(Block(1), 0.5, Norm(), per="prompt"),), "per image"),
        ((Step(Block(1), 0.5, Norm()), Step(Vision(), 0.4, Read(Cls()))), "block before a cut"),
    ],
)
def test_what_cannot_be_cut_in_the_tower_is_refused(steps, match):
    shape = LLAVA.shape(tiny(LLAVA).config)
    with pytest.raises(InvalidValue, match=match):
        check_steps(steps, shape)


def test_keeping_all_in_the_tower_changes_nothing():
    model = tiny(LLAVA)
    inputs = LLAVA.tiny_inputs(model, [[(4, 4)]])
    plain = generate(model, inputs)
    with compress(model, InTower(keep=1.0)):
        same = generate(model, inputs)
    assert all(map(torch.equal, plain.logits, same.logits))
