"""DyCoke's choice of keys while decoding: as if hidden by masks, made when attention moves on, in shorter caches."""

import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import DynamicCache

from foveate import TwoStage, attach, compress, get_method
from foveate.errors import InvalidValue, UnsupportedInput
from foveate.families import families
from foveate.families.llava import Llava
from foveate.families.llava_onevision import LlavaOnevision
from foveate.families.qwen2_5_vl import Qwen25VL
from foveate.masked import entering, masked_logits, sights_of
from foveate.pieces import Recall
from foveate.testing import ONE, generate, text_of, tiny

QWEN, LLAVA, ONEVISION = (
    next(f for f in families().values() if isinstance(f, c)) for c in (Qwen25VL, Llava, LlavaOnevision)
)
ALL = pytest.mark.parametrize("family", [QWEN, LLAVA, ONEVISION], ids=lambda f: f.title)
#: two prompts of unequal length, so one is padded on the left
ROWS = [[(6, 8), (4, 5)], [(5, 5)]]
SEVEN = {"max_new_tokens": 7, "min_new_tokens": 7}


def dycoke(**recall):
    return get_method("dycoke", decode=Recall(**recall), positions="keep")


def widths(cache):
    return [layer.keys.shape[2] for layer in cache.layers]


def difference(model, run, entered, inputs, logits, tokens):
    """From the logits of one forward over prompt and answer, with the unchosen keys hidden by masks."""
    reference = masked_logits(model, run, entered, inputs, tokens)[:, : logits.shape[1]]
    return (logits - reference).abs().max().item()


@ALL
@pytest.mark.parametrize("similarity", [-1.0, 1.0], ids=["chosen once", "chosen at each token"])
@pytest.mark.parametrize("depth", [3 / 28, 3 / 8])
def test_decoding_equals_hiding_the_keys_that_are_not_chosen(family, depth, similarity):
    model = tiny(family)
    inputs = family.tiny_inputs(model, ROWS)
    with compress(model, dycoke(depth=depth, similarity=similarity)) as run, entering(run) as entered:
        out = generate(model, inputs, **SEVEN)
    assert len(run.trace.recalled) == (1 if similarity < 0 else 6)
    logits = torch.stack(out.logits, 1)
    assert difference(model, run, entered, inputs, logits, text_of(out, inputs)) < 1e-4
    run.trace.recalled.clear()  # nothing hidden: the answer must be another one
    assert difference(model, run, entered, inputs, logits, text_of(out, inputs)) > 1e-3


@ALL
@pytest.mark.parametrize("layer", [1, 3])
def test_the_choice_is_the_most_attended_and_changes_only_when_attention_does(family, layer):
    """Recomputed from the model's own eager attention weights, prompt by prompt."""
    model = family.tiny(0)
    model.set_attn_implementation("eager")
    inputs = family.tiny_inputs(model, ROWS)
    changes = []
    for similarity in (1.0, 0.85, 0.7, 0.5):
        with compress(model, dycoke(depth=layer / 8, similarity=similarity)) as run:
            out = generate(model, inputs, output_attentions=True, **SEVEN)
        changes += _follow(run, inputs, [step[layer - 1] for step in out.attentions[1:]], similarity)
    assert True in changes and False in changes, "one of the two was not seen"


def _follow(run, inputs, attentions, similarity):
    """Check each choice of a run; tells, for each prompt and token but the first, whether it was made anew."""
    anew = []
    for row, left in enumerate(sights_of(run, inputs)[-1].columns):
        visual = {c for cut in run.trace.cuts if cut.sample == row for s in cut.spans for c in s.columns()}
        here = torch.tensor([c in visual for c in left.nonzero()[:, 0].tolist()])
        before = last = None
        for step, weights in enumerate(attentions):
            width = run.trace.recalled[0].shown.shape[1]
            paid = weights[row, :, 0, :width].mean(0)[width - len(here) :][here]
            moved = last is None or cosine_similarity(paid, last, dim=0).item() < similarity
            count = max(1, int(0.3 * len(paid) + 0.5))
            wanted = set(paid.topk(count).indices.tolist()) if moved else before
            latest = [c for c in run.trace.recalled if c.after <= step][-1].shown[row, width - len(here) :]
            assert set(latest[here].nonzero()[:, 0].tolist()) == wanted
            assert latest[~here].all(), "text was hidden"
            if last is not None:
                anew.append(moved)
            before, last = wanted, paid
    return anew


@ALL
def test_later_caches_hold_fewer_keys_and_the_prefill_is_counted_whole(family):
    model = tiny(family)
    inputs = family.tiny_inputs(model, ONE)
    with compress(model, dycoke(depth=3 / 8)) as run:
        out = generate(model, inputs, **SEVEN)
        whole = run.trace.kv_bytes
    with compress(model, "dycoke", decode=None, positions="keep") as run:
        all_of_it = generate(model, inputs, **SEVEN)
    tokens = run.trace.tokens_per_layer[0]
    hidden = tokens - Recall().count(tokens)
    assert hidden > 0.6 * tokens
    full = widths(all_of_it.past_key_values)
    assert widths(out.past_key_values) == full[:3] + [n - hidden for n in full[3:]]
    assert whole == run.trace.kv_bytes and not run.trace.recalled


def test_several_tokens_at_once_see_all_keys_and_the_next_one_chooses_again():
    model = tiny(QWEN)
    inputs = QWEN.tiny_inputs(model, ROWS)
    with compress(model, dycoke(similarity=-1.0)) as run, entering(run) as entered:
        out = generate(model, inputs, **SEVEN)
        cache, short = out.past_key_values, widths(out.past_key_values)[-1]
        turn = torch.cat([text_of(out, inputs)[:, -1:], torch.tensor([[40, 41], [42, 43]])], 1)
        given, logits = inputs["attention_mask"], list(out.logits)
        seen = []
        for new, before in ((turn, 6), (torch.tensor([[44], [45]]), 9)):
            mask = torch.cat([given, given.new_ones(2, before + new.shape[1])], 1)
            with torch.no_grad():
                logits += model(input_ids=new, attention_mask=mask, past_key_values=cache).logits.unbind(1)
            seen.append(widths(cache)[-1])
    hidden = run.trace.recalled[0].shown.shape[1] - (short - 6)
    assert seen == [short + 3 + hidden, short + 4] and hidden > 0
    assert [c.after for c in run.trace.recalled] == [0, 6, 9]
    said = torch.cat([text_of(out, inputs), torch.tensor([[40, 41, 44, 0], [42, 43, 45, 0]])], 1)
    assert difference(model, run, entered, inputs, torch.stack(logits, 1), said) < 1e-4


def test_assisted_decoding_goes_on_from_a_cropped_cache():
    model = tiny(QWEN)
    inputs = QWEN.tiny_inputs(model, ONE)
    inputs["input_ids"][0, -4:] = inputs["input_ids"][0, -8:-4]  # something to look up
    with compress(model, dycoke()) as run:
        out = generate(model, inputs, output_logits=False, prompt_lookup_num_tokens=4, **SEVEN)
    assert text_of(out, inputs).shape[1] == 7
    shown = [int(c.shown.sum()) for c in run.trace.recalled]
    assert len(set(shown)) == 2, "there were not both single tokens and several at once"
    held = widths(out.past_key_values)
    assert held[0] - held[-1] == max(shown) - shown[-1], "what followed the prompt is not what layer 0 holds of it"


def test_it_is_off_where_nothing_is_cut_and_keep_1_is_the_same_as_none():
    model = tiny(LLAVA)
    inputs = LLAVA.tiny_inputs(model, ROWS)
    answers = []
    for words in ({"keep": 1.0}, {"decode": Recall(keep=1.0)}, {"decode": None}):
        with compress(model, "dycoke", **words) as run:
            answers.append(generate(model, inputs, **SEVEN).logits)
        assert run.recall is None and not run.trace.recalled
    plain = generate(model, inputs, **SEVEN).logits
    assert all(map(torch.equal, plain, answers[0]))
    assert all(map(torch.equal, answers[1], answers[2]))


def test_cuts_behind_the_choice_are_refused_and_earlier_ones_are_not():
    model = tiny(QWEN)
    both = TwoStage(merge=dycoke(), prune=get_method("fastv"))
    with pytest.raises(InvalidValue, match=r"among the keys of layer 0.*cuts at .*decode=None"):
        attach(model, both)
    inputs = QWEN.tiny_inputs(model, ROWS)
    fits = TwoStage(merge=dycoke(depth=4 / 8), prune=get_method("fastv"), positions="keep")
    with compress(model, fits) as run, entering(run) as entered:
        out = generate(model, inputs, **SEVEN)
    assert len(set(widths(out.past_key_values))) == 3
    assert difference(model, run, entered, inputs, torch.stack(out.logits, 1), text_of(out, inputs)) < 1e-4


def test_offloaded_caches_are_refused():
    model = tiny(LLAVA)
    cache = DynamicCache(config=model.config)
    with compress(model, "dycoke") as run, pytest.raises(UnsupportedInput, match=r"offloaded.*decode=None"):
        # one that moves its layers needs a GPU, so this one says so when all layers have run
        handle = run.decoder.norm.register_forward_hook(lambda *_: setattr(cache, "offloading", True))
        model(**LLAVA.tiny_inputs(model, ONE), past_key_values=cache)
    handle.remove()


@pytest.mark.parametrize("wrong", [{"depth": 1.0}, {"keep": 0.0}, {"keep": 1.5}, {"similarity": 1.1}], ids=str)
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(InvalidValue, match=next(iter(wrong))):
        Recall(**wrong)
