"""Small random models of every family as transformers has them, with inputs, and what torch counts when they run."""

from dataclasses import dataclass, replace

import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

from foveate.cost.hf import arch_of
from foveate.cost.ledger import Ledger
from foveate.cost.tokens import Grid, Prompt, Video, Visual

IMAGE, VIDEO = 10, 11
TEXT = dict(
    hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=120, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
STILL = dict(
    hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=2, image_size=56, patch_size=14
)
NATIVE = dict(depth=4, hidden_size=32, intermediate_size=56, num_heads=2, out_hidden_size=48)
PINPOINTS = [[56, 112], [112, 56], [112, 112]]
IDS = dict(image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=12, vision_end_token_id=13)


def rope(*sections):
    return {"rope_parameters": {"rope_type": "default", "mrope_section": list(sections), "rope_theta": 10000.0}}


DEEP = dict(NATIVE, deepstack_visual_indexes=[0, 2], num_position_embeddings=64)
LONG = dict(TEXT, head_dim=20, **rope(4, 3, 3))
EXPERTS = dict(moe_intermediate_size=24, num_experts=6, num_experts_per_tok=2)


def llava(text=None, **vision):
    return hf.LlavaConfig(
        text_config=text or hf.LlamaConfig(**TEXT), vision_config=hf.CLIPVisionConfig(**STILL | vision),
        image_token_index=IMAGE,
    )  # fmt: skip


def llava_next(text=None, **vision):
    return hf.LlavaNextConfig(
        text_config=text or hf.LlamaConfig(**TEXT), vision_config=hf.CLIPVisionConfig(**STILL | vision),
        image_token_index=IMAGE, image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip


def onevision(text=None, **vision):
    tower = STILL | {"vision_use_head": False} | vision
    return hf.LlavaOnevisionConfig(
        text_config=text or hf.Qwen2Config(**TEXT), vision_config=hf.SiglipVisionConfig(**tower),
        image_token_index=IMAGE, video_token_index=VIDEO, image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip


def internvl(text=None, **vision):
    tower = STILL | {"image_size": [56, 56], "patch_size": [14, 14]} | vision
    return hf.InternVLConfig(
        text_config=text or hf.Qwen2Config(**TEXT), vision_config=tower, image_token_id=IMAGE, tie_word_embeddings=False
    )


def qwen2_vl(text=None, **vision):
    tower = dict(depth=3, embed_dim=32, hidden_size=(text or TEXT)["hidden_size"], num_heads=2, mlp_ratio=2) | vision
    return hf.Qwen2VLConfig(text_config=text or TEXT | rope(2, 2, 2), vision_config=tower, **IDS)


def qwen2_5_vl(text=None, **vision):
    tower = NATIVE | {"window_size": 56, "fullatt_block_indexes": [1, 3]} | vision
    return hf.Qwen2_5_VLConfig(text_config=text or TEXT | rope(2, 2, 2), vision_config=tower, **IDS)


def qwen3_vl(text=None, **vision):
    return hf.Qwen3VLConfig(text_config=text or LONG, vision_config=DEEP | vision, **IDS)


def qwen3_vl_moe(text=None, **vision):
    return hf.Qwen3VLMoeConfig(text_config=text or LONG | EXPERTS, vision_config=DEEP | vision, **IDS)


FAMILIES = (llava, llava_next, onevision, internvl, qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe)


def model_of(config):
    model = hf.AutoModelForImageTextToText.from_config(config).eval()
    model.set_attn_implementation("eager")  # the fused kernel of the CPU is not counted
    if hasattr(config.get_text_config(), "num_experts"):
        model.set_experts_implementation("eager")
    return model


@dataclass
class Case:
    """A model, a prompt in tokens, and the same prompt in tensors."""

    model: torch.nn.Module
    prompt: Prompt
    inputs: dict

    @property
    def arch(self):
        return arch_of(self.model.config)

    @property
    def ledger(self):
        return Ledger((self.prompt.visual,) * len(self.arch.language.blocks), self.prompt.others)

    def prefill(self):
        """FLOPs that torch counts, and the cache."""
        counted, output = count(self.model, **self.inputs, use_cache=True, logits_to_keep=1)
        return counted, output.past_key_values

    def step(self, cache):
        """FLOPs of one decode step after that prefill."""
        batch, length = self.inputs["input_ids"].shape
        more = {"position_ids": torch.full((3, batch, 1), length)} if self.arch.language.axes == 3 else {}
        mask = torch.ones(batch, length + 1, dtype=torch.long)
        one = torch.full((batch, 1), 7)
        return count(self.model, input_ids=one, attention_mask=mask, past_key_values=cache, logits_to_keep=1, **more)[0]


def count(model, **inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = model(**inputs)
    return counter.get_total_flops(), output


def case(config, size, batch=1, text=9):
    """A prompt with one image (width, height) in pixels, or one video (frames, width, height), in every row."""
    arch = arch_of(config)
    if config.model_type.startswith("qwen"):
        return _native_case(config, arch, size, batch, text)
    if len(size) == 3:
        visual = arch.processor.video(Video(*size))
        pixels = {"pixel_values_videos": torch.randn(batch, size[0], 3, 56, 56)}
    else:
        visual = arch.processor.image(*size, True)
        crops = len(visual.patches)
        shape = (batch * crops,) if config.model_type in ("llava", "internvl") else (batch, crops)
        pixels = {"pixel_values": torch.randn(*shape, 3, 56, 56)}
        if len(shape) == 2:
            pixels["image_sizes"] = torch.tensor([[size[1], size[0]]] * batch)
    if config.model_type == "internvl":
        visual = replace(visual, structure=0)  # markers are text to the model
    token = VIDEO if len(size) == 3 else IMAGE
    ids = [5] + [token] * (visual.tokens + visual.structure) + [6] * (text - 1)
    return Case(model_of(config), Prompt((visual,), text, batch), _inputs(ids, batch) | pixels)


def _native_case(config, arch, size, batch, text):
    frames, width, height = size if len(size) == 3 else (1, *size)
    patch, merge = arch.tower.patch, arch.projector.merge
    grid = Grid(frames, *(side // patch // merge * merge for side in (height, width)))
    kind, token = ("video", VIDEO) if len(size) == 3 else ("image", IMAGE)
    tokens = Grid(frames, grid.h // merge, grid.w // merge)
    apart = frames if config.model_type.startswith("qwen3") else 1  # a timestamp before every frame
    ids = [5] + ([6, 12] + [token] * (tokens.n // apart) + [13]) * apart + [6] * (text - 1)
    inputs = _inputs(ids, batch)
    types = (inputs["input_ids"] == IMAGE).int() + 2 * (inputs["input_ids"] == VIDEO).int()
    key = "pixel_values" if kind == "image" else "pixel_values_videos"
    inputs |= {
        key: torch.randn(batch * grid.n, arch.tower.embed.inputs),
        f"{kind}_grid_thw": torch.tensor([list(grid)] * batch), "mm_token_type_ids": types,
    }  # fmt: skip
    visual = Visual(kind, (grid,), (tokens,), structure=3 * apart)
    return Case(model_of(config), Prompt((visual,), text, batch), inputs)


def _inputs(ids, batch):
    ids = torch.tensor([ids] * batch)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
