"""From a Hugging Face config to an Arch: bundled ones by name, files, folders, dicts, config objects, hub ids.

No torch and no transformers, except to fetch the config of a hub id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InvalidValue, UnsupportedModel, unknown_name
from . import decoders, towers
from .arch import Arch, LanguageModel
from .processors import AnyResolution, Resized, Square, Tiles

Config = Mapping[str, Any]
CONFIGS = Path(__file__).parent / "configs"
EMBEDDED = Path(__file__).parents[1] / "assets" / "tiny-qwen2.5-vl"
#: files beside a config.json that say how images and videos are processed
BESIDE = {"preprocessor_config.json": "image", "video_preprocessor_config.json": "video"}
#: and the one in which newer checkpoints say both
BOTH = "processor_config.json"


@cache
def bundled() -> dict[str, Path]:
    """Names of the models whose configs come with foveate, lower case, and where they are."""
    found = {path.stem: path for path in sorted(CONFIGS.glob("*.json")) if path.stem != "defaults"}
    return found | {"embedded": EMBEDDED}


def arch_of(model: str | Path | Config | Any, processor: Config | None = None) -> Arch:
    """The architecture of a vision-language model.

    model      a bundled name (any case), a config.json or the folder it is in, the content of one, a transformers
               config, or a hub id (fetched, unless it is one of the bundled)
    processor  {"image": preprocessor_config, "video": video_preprocessor_config}, where `model` does not bring them

    Raises UnsupportedModel for a model type that is not known or has no vision part, InvalidValue for a name that is
    neither bundled nor a file.
    """
    if isinstance(model, Mapping):
        return _read(str(model.get("_name_or_path") or model.get("model_type", "model")), model, processor or {})
    if not isinstance(model, str | Path):
        if not hasattr(model, "to_dict"):
            raise InvalidValue(f"expected a name, a path, a dict or a transformers config, got {type(model).__name__}")
        return arch_of(model.to_dict(), processor)
    path = Path(model)
    if path.exists():
        return _from_files(path, processor)
    name = str(model).lower()
    for stem, file in bundled().items():
        if name == stem:
            return _from_files(file, processor) if file.is_dir() else _from_bundle(stem, processor)
    for stem in bundled():
        if stem != "embedded" and name == _bundle(stem)["hub"].lower():
            return _from_bundle(stem, processor)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return _from_hub(str(model), processor)
    raise unknown_name("model", str(model), bundled())


@cache
def _bundle(stem: str) -> dict[str, Any]:
    return dict(json.loads(bundled()[stem].read_text()))


def _from_bundle(stem: str, processor: Config | None) -> Arch:
    content = _bundle(stem)
    return _read(stem, content["config"], content.get("processor", {}) | dict(processor or {}))


def _from_files(path: Path, processor: Config | None) -> Arch:
    file = path / "config.json" if path.is_dir() else path
    config = _json(file)
    found = _settings(lambda name: file.parent / name)
    name = "embedded" if path == EMBEDDED else file.parent.name if file.name == "config.json" else file.stem
    return _read(name, config, found | dict(processor or {}))


def _settings(where: Callable[[str], Path | None]) -> dict[str, Any]:
    """What the files beside a config say of images and videos."""
    found = {}
    both = where(BOTH)
    if both is not None and both.exists():
        content = _json(both)
        found = {k: content[f"{k}_processor"] for k in BESIDE.values() if f"{k}_processor" in content}
    for name, key in BESIDE.items():
        path = where(name)
        if path is not None and path.exists():
            found[key] = _json(path)
    return found


def _from_hub(name: str, processor: Config | None) -> Arch:
    from transformers import AutoConfig
    from transformers.utils import cached_file

    try:
        config = AutoConfig.from_pretrained(name).to_dict()
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"cannot read the config of {name}: {str(error).splitlines()[0]}") from error

    def where(file: str) -> Path | None:
        local = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        return None if local is None else Path(local)

    return _read(name, config, _settings(where) | dict(processor or {}))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InvalidValue(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidValue(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidValue(f"{path} holds no config: expected an object with a model_type")
    return content


def _read(name: str, config: Config, processor: Config) -> Arch:
    kind = config.get("model_type")
    reader = READERS.get(str(kind))
    if reader is None:
        if kind is not None and "vision_config" not in config and "mm_vision_tower" not in config:
            raise UnsupportedModel(
                f"{kind!r} is no vision-language model (its config has no vision part); "
                f"give one of: {', '.join(sorted(READERS))}"
            )
        raise UnsupportedModel(str(unknown_name("model type", str(kind), READERS)))
    if kind not in ORIGINAL and "vision_config" not in config:
        raise UnsupportedModel(f"this config of {kind!r} has no vision_config; give the config of the whole model")
    try:
        return reader(name, config, processor)
    except KeyError as error:
        raise InvalidValue(f"the config of {name} ({kind}) lacks {error.args[0]!r}") from error


# ── one reader for each family ───────────────────────────────────────────────────────────────────────────────────


def _llava(name: str, config: Config, processor: Config) -> Arch:
    vision, text = _vision(config), _language(config)
    config = _defaults(config["model_type"]) | dict(config)
    layer = config["vision_feature_layer"]
    tower = _still_tower(vision, layer)
    if (config["vision_feature_select_strategy"] == "default") != tower.cls:
        raise UnsupportedModel(
            "vision_feature_select_strategy must drop the class token where the tower has one, and nothing where not"
        )
    layers = 1 if isinstance(layer, int) else len(layer)
    projector = towers.mlp_projector(
        tower.hidden, text.hidden, layers=layers, bias=config.get("multimodal_projector_bias", True),
        newline=config["model_type"] != "llava",
    )  # fmt: skip
    side = vision["image_size"] // vision["patch_size"]
    if config["model_type"] == "llava":
        return Arch(name, "llava", tower, projector, text, Square(side))
    one = config["model_type"] == "llava_onevision"
    pinpoints = config["image_grid_pinpoints"]
    most = int(config.get("vision_aspect_ratio", "anyres_max_9").removeprefix("anyres_max_")) if one else None
    resolution = AnyResolution(
        side, vision["image_size"], tuple((h, w) for h, w in pinpoints), most, many=not one, pool="up" if one else None
    )
    return Arch(name, config["model_type"], tower, projector, text, resolution)


def _original_llava(name: str, config: Config, processor: Config) -> Arch:
    """The flat configs of the LLaVA-NeXT repository: LLaVA-Video, and LLaVA-OneVision before its conversion."""
    tower_name = str(config["mm_vision_tower"]).lower()
    if "siglip-so400m-patch14-384" not in tower_name:
        raise UnsupportedModel(
            f"no cost model for the vision tower {tower_name!r} in a config of this form; there is "
            "google/siglip-so400m-patch14-384; or give the config of a converted checkpoint (llava-hf)"
        )
    text = decoders.language_model(
        {**_defaults("qwen2"), **config, "model_type": "qwen2"}, config.get("tie_word_embeddings", False)
    )
    # the repository cuts the last of the 27 blocks off
    vision = _defaults("siglip_vision_model") | _bundle("llava-onevision-7b")["config"]["vision_config"]
    tower = towers.siglip(vision, -1)
    side, pixels = vision["image_size"] // vision["patch_size"], vision["image_size"]
    pinpoints = config.get("image_grid_pinpoints") or _defaults("llava_onevision")["image_grid_pinpoints"]
    if isinstance(pinpoints, str):
        pinpoints = _defaults("llava_onevision")["image_grid_pinpoints"]  # "(1x1),...,(6x6)": the same 36
    newline = {"grid": "row", "frame": "frame", "one_token": "end", "no_token": "none"}
    resolution = AnyResolution(
        side, pixels, tuple((h, w) for h, w in pinpoints), 9, many=False,
        pool="down" if config.get("mm_spatial_pool_mode", "bilinear") in ("average", "max") else "up",
        newline=newline[config.get("mm_newline_position", "one_token")],  # type: ignore[arg-type]
    )  # fmt: skip
    return Arch(
        name,
        config["model_type"],
        tower,
        towers.mlp_projector(tower.hidden, text.hidden, newline=True),
        text,
        resolution,
    )


def _qwen(name: str, config: Config, processor: Config) -> Arch:
    kind = config["model_type"]
    vision, text = _vision(config), _language(config)
    build = {"qwen2_vl": towers.qwen2_vl, "qwen2_5_vl": towers.qwen2_5_vl}.get(kind, towers.qwen3_vl)
    tower, projector = build(vision)
    third = kind.startswith("qwen3")
    image = processor.get("image", {})
    # a checkpoint without settings for videos has them processed by those for images
    video = processor.get("video") or image
    defaults = _defaults(kind)
    resized = Resized(
        tower.patch, projector.merge, tower.frames,
        _pixels(image, defaults["image_pixels"]), _pixels(video, defaults["video_pixels"]),
        joint=third, timestamps=third,
        per_frame=video.get("max_video_tokens", defaults["per_frame"]) if video.get("cap_pixels_per_frame") else None,
    )  # fmt: skip
    return Arch(name, kind, tower, projector, text, resized)


def _internvl(name: str, config: Config, processor: Config) -> Arch:
    vision, text = _vision(config), _language(config)
    tower = towers.internvit(vision, config.get("vision_feature_layer", -1))
    merge = round(1 / config.get("downsample_ratio", 0.5))
    side, image = _one(vision["image_size"]) // tower.patch, processor.get("image", {})
    tiles = Tiles(
        side, _one(vision["image_size"]), merge,
        image.get("min_patches", 1), image.get("max_patches", 12), image.get("crop_to_patches", True),
    )  # fmt: skip
    return Arch(name, "internvl", tower, towers.shuffled_projector(tower.hidden, text.hidden, merge), text, tiles)


#: flat configs of the LLaVA-NeXT repository, which name their vision tower
ORIGINAL = ("llava_qwen",)
READERS: dict[str, Callable[[str, Config, Config], Arch]] = {
    "internvl": _internvl,
    "llava": _llava,
    "llava_next": _llava,
    "llava_onevision": _llava,
    "llava_qwen": _original_llava,
    "qwen2_5_vl": _qwen,
    "qwen2_vl": _qwen,
    "qwen3_vl": _qwen,
    "qwen3_vl_moe": _qwen,
}


@cache
def _defaults(kind: str) -> dict[str, Any]:
    """What a config of this type may leave out: the defaults of transformers' config class."""
    known = json.loads((CONFIGS / "defaults.json").read_text())
    return dict(known.get(kind, {}))


def _vision(config: Config) -> dict[str, Any]:
    """The vision part with its defaults."""
    default = _defaults(config["model_type"])["vision"]
    given = {k: v for k, v in config["vision_config"].items() if v is not None}
    # composite models name their tower after themselves in older checkpoints
    kind = given.get("model_type", default)
    kind = default if kind == config["model_type"] else kind
    return _defaults(kind) | given | {"model_type": kind}


def _language(config: Config) -> LanguageModel:
    """The language model, from the text part or, in older checkpoints, from the config itself."""
    default = _defaults(config["model_type"])["text"]
    given = config.get("text_config") or {k: v for k, v in config.items() if k != "vision_config"}
    kind = given.get("model_type", default)
    kind = default if kind == config["model_type"] else kind
    text = _defaults(kind) | given | {"model_type": kind}
    if "num_local_experts" in given:  # another name for the same number
        text["num_experts"] = given["num_local_experts"]
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    return decoders.language_model(text, bool(tied))


def _still_tower(vision: Config, layer: Any) -> Any:
    build = {"clip_vision_model": towers.clip, "siglip_vision_model": towers.siglip}
    if vision["model_type"] not in build:
        raise UnsupportedModel(
            f"no cost model for the vision tower {vision['model_type']!r}; there are: {', '.join(sorted(build))}"
        )
    return build[vision["model_type"]](vision, layer)


def _pixels(settings: Config, default: Any) -> tuple[int, int]:
    """Least and most pixels, under any of the names that processors have given them."""
    size = settings.get("size") or {}
    low = settings.get("min_pixels") or size.get("shortest_edge") or default[0]
    return low, settings.get("max_pixels") or size.get("longest_edge") or default[1]


def _one(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])
