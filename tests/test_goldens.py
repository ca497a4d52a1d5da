"""AIM as published, end to end: the golden's 24-layer model in a stock LLaVA, its tokens really removed."""

import json
import math
from pathlib import Path

import pytest
import torch

from foveate import compress
from foveate.masked import sights_of
from foveate.methods.aim import Aim
from foveate.ops.schedule import AimSchedule

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "aim.json").read_text())["e2e"]["e1_tiny_qwen2_prefill"]


def noise(k: int, p: int) -> float:
    s = math.sin(12.9898 * (k + 1) + 78.233 * (p + 1)) * 43.758
    return s - math.floor(s)


def weights(named: dict[str, torch.Tensor]) -> None:
    """The golden's closed formula, over the sorted parameter names of a Qwen2ForCausalLM."""
    for p, name in enumerate(sorted(named)):
        u = torch.tensor([noise(k, p) - 0.5 for k in range(named[name].numel())], dtype=torch.float64)
        if name.endswith("norm.weight") or "layernorm" in name:
            u = 1 + 0.2 * u
        else:
            u = u * (0.2 if name.endswith("bias") else 1.6)
        named[name].copy_(u.float().view_as(named[name]))


@pytest.fixture(scope="module")
def model():
    """A LLaVA whose images are one token each and whose language model is the golden's."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, Qwen2Config

    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1, image_size=4, patch_size=4
    )
    text = Qwen2Config(**GOLDEN["config"], bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=vision, image_token_index=10, image_token_id=10)
    ).eval()
    named = {f"model.{n}": p.data for n, p in model.model.language_model.named_parameters()}
    weights(named | {"lm_head.weight": model.lm_head.weight.data})
    return model


@pytest.fixture
def inputs():
    start, end, length = GOLDEN["boundaries"][0]
    ids = [3] * start + [10] * (end - start) + [4] * (length - end)
    pixels = torch.zeros(end - start, 3, 4, 4)
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, length).long(), "pixel_values": pixels}


def embeddings(module, args, kwargs):
    """The golden's inputs, in place of what the random vision tower saw."""
    wave = [math.sin(12.9898 * (k + 1) + 4.1414) * 43.758 for k in range(160)]
    flat = [2 * (s - math.floor(s) - 0.5) for s in wave]
    return args, {**kwargs, "inputs_embeds": torch.tensor(flat, dtype=torch.float64).float().view(1, 20, 8)}


def test_aim_prunes_what_the_published_code_hides(model, inputs):
    handle = model.model.language_model.register_forward_pre_hook(embeddings, with_kwargs=True)
    try:
        with compress(model, Aim(keep=1.0, schedule=AimSchedule(14, 22), positions="keep")) as run:
            logits = model(**inputs).logits[0, -1]
        plain = model(**inputs).logits[0, -1]
    finally:
        handle.remove()
    seen = [s.columns[0].nonzero()[:, 0].tolist() for s in sights_of(run, inputs)]
    assert seen == [GOLDEN["visible"][str(i)] for i in range(24)]
    torch.testing.assert_close(logits, torch.tensor(GOLDEN["last_logits"]), atol=GOLDEN["atol"], rtol=0)
    torch.testing.assert_close(plain, torch.tensor(GOLDEN["last_logits_no_pruning"]), atol=GOLDEN["atol"], rtol=0)
    assert run.trace.tokens_per_layer == [12] * 15 + [10, 9, 7, 6, 4, 3, 1, 0, 0]
