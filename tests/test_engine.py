"""What the engine does beyond the promises: ways of generating, caches, attention kernels, and what it refuses."""

import threading

import pytest
import torch
from transformers import AttentionInterface, DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import foveate
from foveate import TwoStage, attach, compress, get_method
from foveate.engine.prompt import _finite
from foveate.errors import InvalidValue, UnsupportedInput, UnsupportedModel
from foveate.families import families
from foveate.families.llava import Llava
from foveate.families.llava_onevision import LlavaOnevision
from foveate.families.qwen2_5_vl import Qwen25VL
from foveate.masked import masked_logits, sights_of
from foveate.methods.aim import Aim
from foveate.pieces import Adaptive, Complexity
from foveate.testing import NEW, ONE, UNEQUAL, Case, answer, generate, text_of, tiny

QWEN, LLAVA, ONEVISION = Qwen25VL(), Llava(), LlavaOnevision()
ALL = sorted(set(families().values()), key=lambda f: f.title)
by_family = pytest.mark.parametrize("family", ALL, ids=lambda f: f.title)
IN_LLM_AND_BEFORE = ["fastv", "divprune", "aim", "pyramiddrop"]


def case(family, method="fastv", **overrides):
    return Case(family, get_method(method, **overrides))


@pytest.mark.parametrize("method", IN_LLM_AND_BEFORE)
@by_family
def test_assisted_decoding_gives_the_greedy_answer(family, method):
    c = case(family, method)
    inputs = c.inputs(ONE)
    inputs["input_ids"][0, -4:] = inputs["input_ids"][0, -8:-4]  # something to look up
    greedy, _ = answer(c, inputs, output_logits=False, max_new_tokens=12)
    assisted, _ = answer(c, inputs, output_logits=False, max_new_tokens=12, prompt_lookup_num_tokens=4)
    assert torch.equal(greedy.sequences, assisted.sequences)


@pytest.mark.parametrize("method", IN_LLM_AND_BEFORE)
def test_sampling_with_one_seed_gives_one_answer(method):
    c = case(QWEN, method)
    sampled, inputs = [], c.inputs(UNEQUAL)
    for _ in range(2):
        torch.manual_seed(7)
        out, _ = answer(c, inputs, do_sample=True, num_return_sequences=2)
        sampled.append(out.sequences)
    assert torch.equal(*sampled) and sampled[0].shape[0] == 4


@pytest.mark.parametrize("method", IN_LLM_AND_BEFORE)
@by_family
def test_a_second_turn_equals_one_long_prompt_with_the_same_tokens(family, method):
    c = Case(family, get_method(method, positions="keep"))
    inputs = c.inputs(ONE)
    with compress(c.model, c.method):
        first = generate(c.model, inputs)
        turn = torch.tensor([[40, 41, 42]])
        ids = torch.cat([first.sequences, turn], 1)
        second = generate(
            c.model,
            {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": first.past_key_values},
        )
    door = {}
    with compress(c.model, c.method) as again:
        handle = again.decoder.register_forward_pre_hook(
            lambda m, a, k: door.update(x=door.get("x", k["inputs_embeds"])), with_kwargs=True
        )
        generate(c.model, inputs, max_new_tokens=1, min_new_tokens=1)
        handle.remove()
    history = torch.cat([text_of(first, inputs), turn, second.sequences[:, ids.shape[1] :]], 1)
    reference = masked_logits(c.model, again, {0: door["x"]}, inputs, history)
    got = torch.stack(second.logits, 1)
    assert (got - reference[:, -got.shape[1] :]).abs().max() < 2e-4


@by_family
def test_eager_and_sdpa_keep_the_same_tokens(family):
    kept = {}
    for implementation in ("eager", "sdpa"):
        model = family.tiny(0)
        model.set_attn_implementation(implementation)
        with compress(model, "pyramiddrop") as run:
            out = generate(model, family.tiny_inputs(model, UNEQUAL))
        assert model.config.text_config._attn_implementation == implementation
        kept[implementation] = [c.reduction.kept for c in run.trace.cuts], out.logits
    assert all(map(torch.equal, kept["eager"][0], kept["sdpa"][0]))
    assert max((a - b).abs().max() for a, b in zip(kept["eager"][1], kept["sdpa"][1], strict=True)) < 1e-4


def test_flash_attention_is_told_its_own_name():
    """Its forward picks the kernel by the name in module.config; a stand-in records what it would see."""
    seen = set()

    def flash(module, q, k, v, mask, **kwargs):
        seen.add(module.config._attn_implementation)
        assert module.config.hidden_size and module.layer_idx is not None and module.is_causal
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, q, k, v, mask, **kwargs)

    AttentionInterface.register("flash_stand_in", flash)
    model = LLAVA.tiny(0)
    model.model.language_model.config._attn_implementation_internal = "flash_stand_in"
    with compress(model, "fastv") as run:
        model(**LLAVA.tiny_inputs(model, ONE))
    assert seen == {"flash_stand_in"} and run.trace.tokens_per_layer == [16, 16, 8, 8, 8, 8, 8, 8]


def test_an_implementation_that_cannot_be_watched_is_refused():
    model = LLAVA.tiny(0)
    model.model.language_model.config._attn_implementation_internal = "made_up"
    with pytest.raises(UnsupportedModel, match="made_up"), compress(model, "fastv"):
        pass


@pytest.mark.parametrize("family", [QWEN, ONEVISION], ids=lambda f: f.title)
@pytest.mark.parametrize("method", ["aim", "visionzip", "pool", "fastv", "uniform"])
def test_videos_are_compressed(family, method):
    c = case(family, method)
    rows = [[(3, 4, 6)]]
    inputs = c.inputs(rows)
    out, run = answer(c, inputs)
    grid = run.trace.plan.grids[0]
    assert grid.t == 3 and min(run.trace.tokens_per_layer) < grid.n
    if method == "aim":  # every frame keeps its share
        kept = run.trace.cuts[0].reduction.kept[0]
        assert (kept // grid.frame.n).bincount().tolist() == [round(grid.frame.n * 0.25)] * 3
    assert out.past_key_values.layers[-1].keys.shape[2] < inputs["input_ids"].shape[1]


def test_an_image_and_a_video_in_one_prompt():
    c = case(QWEN, "divprune", keep=0.25)
    _, run = answer(c, c.inputs([[(4, 4), (2, 4, 6)]]))
    assert [(g.t, g.h, g.w) for g in run.trace.plan.grids] == [(1, 4, 4), (2, 4, 6)]
    assert run.trace.tokens_per_layer[0] == 4 + 12


@by_family
def test_two_threads_two_models(family):
    models = [family.tiny(0), family.tiny(0)]
    results = {}

    def work(i):
        with torch.no_grad(), compress(models[i], "pyramiddrop"):
            results[i] = [
                generate(models[i], family.tiny_inputs(models[i], UNEQUAL, seed=i)).sequences for _ in range(3)
            ]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(2):
        with compress(models[i], "pyramiddrop"):
            alone = generate(models[i], family.tiny_inputs(models[i], UNEQUAL, seed=i)).sequences
        assert all(torch.equal(alone, s) for s in results[i])


def test_one_model_in_two_contexts_is_refused_and_two_models_are_not():
    model, other = tiny(QWEN), QWEN.tiny(1)
    with compress(model, "fastv"):
        with pytest.raises(UnsupportedModel, match="TwoStage"), compress(model, "divprune"):
            pass
        with compress(other, "divprune") as inner:
            generate(other, QWEN.tiny_inputs(other, ONE))
        assert inner.trace.tokens_per_layer[0] < 48


def test_attach_until_detach():
    model = tiny(LLAVA)
    inputs = LLAVA.tiny_inputs(model, ONE)
    plain = generate(model, inputs).sequences
    run = attach(model, "random", keep=0.1)
    generate(model, inputs)
    assert run.trace.tokens_per_layer == [2] * 8
    run.detach()
    assert torch.equal(generate(model, inputs).sequences, plain)


@by_family
def test_a_loop_without_generate_continues_the_positions(family):
    """Plain forward calls on one cache, no position_ids given: the same as generate."""
    c = case(family, "divprune")
    inputs = c.inputs(ONE)
    expected, _ = answer(c, inputs)
    with compress(c.model, c.method):
        cache = DynamicCache(config=c.model.config.text_config)
        out = c.model(**inputs, past_key_values=cache, use_cache=True)
        tokens = [expected.sequences[0, inputs["input_ids"].shape[1]]]
        logits = [out.logits[:, -1]]
        for step in range(1, NEW):
            out = c.model(input_ids=tokens[-1].view(1, 1), past_key_values=cache, use_cache=True)
            logits.append(out.logits[:, -1])
            tokens.append(expected.sequences[0, inputs["input_ids"].shape[1] + step])
    assert max((a - b).abs().max() for a, b in zip(logits, expected.logits, strict=True)) < 1e-4


@pytest.mark.parametrize("family", [LLAVA, ONEVISION], ids=lambda f: f.title)
def test_compact_positions_equal_a_shorter_prompt(family):
    """Renumbered survivors: as if the language model had been given the short sequence of embeddings from the start."""
    c = case(family, "random", keep=0.25, positions="compact")
    inputs = c.inputs(ONE)
    short = {}

    def hook(module, args, kwargs):
        short.setdefault("x", kwargs["inputs_embeds"])

    with compress(c.model, c.method) as run:
        handle = run.decoder.register_forward_pre_hook(hook, with_kwargs=True)
        out = generate(c.model, inputs)
        handle.remove()
    embeds = c.model.get_input_embeddings()(text_of(out, inputs)[:, :-1])
    full = torch.cat([short["x"], embeds], 1)
    hidden = c.model.model.language_model(inputs_embeds=full).last_hidden_state
    reference = c.model.lm_head(hidden)[:, short["x"].shape[1] - 1 :]
    assert (torch.stack(out.logits, 1) - reference).abs().max() < 1e-4


def test_compact_inside_the_language_model_decodes_and_batches():
    c = case(LLAVA, "pyramiddrop", positions="compact")
    one, other = c.inputs(ONE), c.inputs([[(4, 4)]], text=3)
    batch = c.inputs([[(4, 4)], [(4, 4)]])
    out, _ = answer(c, batch)
    alone, _ = answer(c, {k: v[:1] for k, v in batch.items()})
    assert torch.equal(out.sequences[0], alone.sequences[0])
    assert one["input_ids"].shape != other["input_ids"].shape


def test_adaptive_budgets_follow_the_content_and_stay_in_bounds():
    c = case(QWEN, "divprune", keep=Adaptive(Complexity(), 0.1, 0.5))
    _, run = answer(c, c.inputs([[(6, 8)], [(4, 5)], [(6, 8), (6, 8)]]))
    for cut in run.trace.cuts:
        n, kept = cut.reduction.source.shape[1], cut.reduction.kept.shape[1]
        assert round(0.1 * n) <= kept <= round(0.5 * n)
    both, _ = answer(c, c.inputs(UNEQUAL))
    assert both.sequences.shape[0] == 2


def test_two_stages_compose():
    method = TwoStage(merge=get_method("pool", keep=0.25), prune=get_method("fastv", keep=0.5, layer=3))
    _, run = answer(Case(QWEN, method), tiny_inputs())
    assert run.trace.tokens_per_layer == [12] * 3 + [6] * 5


def tiny_inputs():
    return QWEN.tiny_inputs(tiny(QWEN), ONE)


@pytest.mark.parametrize("stages", [{"merge": "fastv", "prune": "fastv"}, {"merge": "pool", "prune": "divprune"}])
def test_two_stages_in_the_wrong_order_are_refused(stages):
    method = TwoStage(**{k: get_method(v) for k, v in stages.items()})
    with pytest.raises(InvalidValue, match="give one that cuts"), compress(tiny(QWEN), method):
        pass


OUTSIDE = [(m, k) for m in ("divprune", "fastv", "aim") for k in (0, -0.5, 1.5, float("nan"))]


# inside the language model 0 is allowed: it withdraws all visual tokens
@pytest.mark.parametrize(("method", "keep"), [case for case in OUTSIDE if case != ("fastv", 0)])
def test_a_keep_outside_its_range_is_refused(method, keep):
    with pytest.raises(InvalidValue, match="keep must lie in"), compress(tiny(QWEN), method, keep=keep):
        pass


def test_withdrawing_all_visual_tokens():
    c = case(LLAVA, "fastv", keep=0, layer=5)
    _, run = answer(c, c.inputs(UNEQUAL))
    assert run.trace.tokens_per_layer == [32] * 5 + [0] * 3


def test_wrong_names_say_the_nearest():
    with pytest.raises(InvalidValue, match="did you mean 'fastv'"):
        get_method("fastvee")
    with pytest.raises(InvalidValue, match="did you mean 'layer'"):
        get_method("fastv", layers=3)


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(InvalidValue, match="layers 0 to 7"), compress(tiny(QWEN), "fastv", layer=8):
        pass
    with pytest.raises(InvalidValue, match="none before layer 0"), compress(tiny(QWEN), "fastv", layer=0):
        pass
    with pytest.raises(InvalidValue, match="blocks 0 to 3"), compress(tiny(QWEN), "visionzip", block=9):
        pass


def test_renumbering_under_mrope_is_refused():
    with pytest.raises(InvalidValue, match="M-RoPE"), compress(tiny(QWEN), "divprune", positions="compact"):
        pass


def test_models_without_an_adapter_are_refused_with_the_list():
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    tiny_config = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=10)
    for model in (BertModel(BertConfig(**tiny_config)), LlamaForCausalLM(LlamaConfig(**tiny_config))):
        with pytest.raises(UnsupportedModel, match=r"no vision-language model.*qwen2_5_vl"), compress(model, "fastv"):
            pass
    with pytest.raises(UnsupportedModel, match="no Hugging Face model"), compress(torch.nn.Linear(1, 1), "fastv"):
        pass


def test_a_second_image_behind_a_cache_is_refused():
    c = case(QWEN, "fastv")
    inputs = c.inputs(ONE)
    with compress(c.model, c.method):
        first = generate(c.model, inputs)
        with pytest.raises(UnsupportedInput, match="behind a filled cache"):
            c.model(**{k: v for k, v in inputs.items() if k != "attention_mask"}, past_key_values=first.past_key_values)
        assert torch.equal(generate(c.model, inputs).sequences, first.sequences)


def test_prefill_in_chunks_is_refused():
    c = case(LLAVA, "divprune")
    with pytest.raises(UnsupportedInput), compress(c.model, c.method):
        generate(c.model, c.inputs(ONE), prefill_chunk_size=5)


def test_a_cache_of_another_context_is_refused():
    c = case(LLAVA, "fastv")
    with compress(c.model, c.method):
        first = generate(c.model, c.inputs(ONE))
    ids = torch.cat([first.sequences, torch.tensor([[40, 41]])], 1)
    with pytest.raises(UnsupportedInput, match="another compression context"), compress(c.model, c.method):
        generate(
            c.model,
            {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": first.past_key_values},
        )


def test_images_encoded_elsewhere_are_refused():
    c = case(QWEN, "fastv")
    inputs = c.inputs(ONE)
    embeds = c.model.get_input_embeddings()(inputs["input_ids"])
    with compress(c.model, c.method):
        with pytest.raises(UnsupportedInput, match="pass input_ids"):
            c.model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
        with pytest.raises(UnsupportedInput, match="were encoded inside this context"):
            c.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])


def test_nan_is_refused():
    c = case(QWEN, "divprune")
    inputs = c.inputs(ONE)
    inputs["pixel_values"][0, 0] = float("nan")
    with pytest.raises(UnsupportedInput, match="NaN"), compress(c.model, c.method):
        c.model(**inputs)


def test_large_finite_features_are_not_taken_for_infinity():
    large = torch.full((1, 4, 4), 3e38)  # their sum is infinite
    assert _finite(large) and _finite(large.to(torch.bfloat16))
    large[0, 1, 2] = -torch.inf
    assert not _finite(large)


def test_sliding_window_models_are_refused():
    model = ONEVISION.tiny(0, use_sliding_window=True, sliding_window=4, max_window_layers=2)
    with pytest.raises(UnsupportedModel, match="full attention"), compress(model, "fastv"):
        pass


def test_one_token_images_and_right_padding():
    for method in IN_LLM_AND_BEFORE:
        c = case(QWEN, method)
        _, run = answer(c, c.inputs([[(1, 1)], [(2, 3)]]))
        assert min(run.trace.tokens_per_layer[:5]) >= 2
    c = case(QWEN, "fastv")
    right, left = c.inputs(UNEQUAL, padding="right"), c.inputs(UNEQUAL)
    with compress(c.model, c.method) as run:
        a = c.model(**right)
        kept_right = [cut.reduction.kept for cut in run.trace.cuts]
        b = c.model(**left)
        kept_left = [cut.reduction.kept for cut in run.trace.cuts]
    assert all(map(torch.equal, kept_left, kept_right))
    last = right["attention_mask"][1].sum() - 1 - (right["input_ids"].shape[1] - a.logits.shape[1])
    assert (b.logits[0, -1] - a.logits[0, -1]).abs().max() < 1e-4 and last >= 0


def test_the_trace_prints_and_counts():
    c = case(QWEN, "aim")
    inputs = c.inputs(ONE)
    out, run = answer(c, inputs)
    text = str(run.trace)
    assert "48 visual tokens (6x8)" in text and "T_eq" in text
    prefill = sum(layer.keys[:, :, : 1 - NEW].numel() * 2 * 4 for layer in out.past_key_values.layers)
    assert run.trace.kv_bytes == prefill
    assert run.trace.prefill_ms > run.trace.selection_ms > 0 and run.trace.vision_ms > 0
    assert sights_of(run, inputs)[0].columns.sum() == 12 + inputs["input_ids"].shape[1] - 48


def test_solve_finds_the_keep_for_a_t_eq():
    from foveate.tokens import Grid

    shape = QWEN.shape(tiny(QWEN).config)
    for method in ("fastv", "divprune", "pyramiddrop", "visionzip"):
        solved = foveate.solve(get_method(method), shape, Grid(1, 24, 24), t_eq=250)
        assert abs(foveate.make_plan(solved.steps(shape), shape, Grid(1, 24, 24)).t_eq - 250) < 4
    with pytest.raises(InvalidValue, match="out of reach"):
        foveate.solve(get_method("fastv"), shape, Grid(1, 24, 24), t_eq=10)
    assert isinstance(Aim(), foveate.Method)


@pytest.mark.parametrize("method", ["pool", "aim", "visionzip", "divprune"])
@by_family
def test_what_enters_layer_0_are_the_means_of_what_each_survivor_stands_for(family, method):
    c = case(family, method, keep=0.25)
    inputs = c.inputs([[(6, 8), (4, 5)]])

    def door(method):
        seen = {}
        with compress(c.model, method) as run:
            handle = run.decoder.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
            c.model(**inputs)
            handle.remove()
        return seen["inputs_embeds"][0], run

    plain, _ = door(get_method("uniform", keep=1.0))
    cut, run = door(c.method)
    columns = sights_of(run, inputs)[0].columns[0].nonzero()[:, 0].tolist()
    assert len(run.trace.cuts) >= len(run.trace.plan.grids)
    for step in run.trace.cuts:
        if step.step.at.layer:
            continue
        own = torch.tensor(step.spans[0].columns())
        for rank, kept in enumerate(step.reduction.kept[0]):
            group = own[step.reduction.source[0] == rank]
            got = cut[columns.index(int(own[kept]))]
            torch.testing.assert_close(got, plain[group].mean(0), atol=1e-5, rtol=1e-4)


def test_logits_of_more_tokens_than_stand_behind_the_image_change_nothing():
    """logits_to_keep says how many tokens at the end are an answer, but it cannot reach into the image."""
    c = case(QWEN, "fastv")
    inputs = c.inputs(UNEQUAL)
    with compress(c.model, c.method) as run:
        last = c.model(**inputs, logits_to_keep=1).logits[:, -1]
        kept = [cut.reduction.kept for cut in run.trace.cuts]
        many = c.model(**inputs, logits_to_keep=40).logits[:, -1]
        assert all(map(torch.equal, kept, [cut.reduction.kept for cut in run.trace.cuts]))
    torch.testing.assert_close(last, many, atol=1e-5, rtol=1e-4)


def test_a_forced_answer_has_no_say_in_the_selection():
    c = case(QWEN, "fastv")
    prompt = c.inputs(ONE)
    with compress(c.model, c.method) as run:
        c.model(**prompt, logits_to_keep=1)
        kept = run.trace.cuts[0].reduction.kept
        answer_ids = torch.tensor([[70, 71, 72]])
        longer = dict(prompt, input_ids=torch.cat([prompt["input_ids"], answer_ids], 1))
        for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            longer[name] = torch.cat([prompt[name], torch.full_like(answer_ids, fill).to(prompt[name].dtype)], 1)
        c.model(**longer, logits_to_keep=4)
        assert torch.equal(run.trace.cuts[0].reduction.kept, kept)
