"""Loading a model with its processor, and images from files; everything a person can get wrong there in one line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import InvalidValue, UnsupportedInput, unknown_name
from .families import family_of
from .families.base import Kind
from .tokens import Grid

EMBEDDED = "tiny-qwen2.5-vl"
#: Longest side at which images are handed on: no processor looks at more, and decoding stays small.
LONGEST_SIDE = 4096
#: What LLaVA-like processors count placeholders by.
PROCESSOR_SETTINGS = (
    "patch_size",
    "vision_feature_select_strategy",
    "num_additional_image_tokens",
    "num_image_tokens",
    "image_seq_length",
    "vision_aspect_ratio",
)
#: Bytes of a decoded picture beyond which a file is refused: 20,000 x 20,000 in RGB still opens.
MOST_BYTES = 1_250_000_000
#: Number formats a model can be loaded in; "auto" is that of the checkpoint.
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode and what turns images and text into its inputs."""

    model: Any
    processor: Any


def embedded_model_path() -> Path:
    """The checkpoint that ships with foveate."""
    return Path(__file__).parent / "assets" / EMBEDDED


def load(
    path: str | Path | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | None = None,
    attn_implementation: str | None = None,
) -> Loaded:
    """A vision-language model and its processor from a folder or a hub id; without one, the embedded model.

    Raises InvalidValue where there is no model, UnsupportedModel for a family without an adapter, before any weights
    are read.
    """
    from transformers import AutoModelForImageTextToText

    path = str(path or embedded_model_path())
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    family_of(load_config(path))
    options = {"attn_implementation": attn_implementation} if attn_implementation else {}
    try:
        model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype, **options)
        processor = _processor(path)
    except (OSError, ValueError, ImportError) as error:
        raise InvalidValue(f"cannot load {path}: {_first_line(error)}") from error
    processor.tokenizer.padding_side = "left"  # a batch is generated from its right end
    try:
        return Loaded(model.to(device).eval() if device else model.eval(), processor)
    except (RuntimeError, AssertionError) as error:
        raise InvalidValue(f"cannot use device {device!r}: {_first_line(error)}") from error


def load_config(path: str | Path | None = None) -> Any:
    """A model's config from a folder or a hub id; raises InvalidValue where there is none."""
    from transformers import AutoConfig

    path = str(path or embedded_model_path())
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidValue(
            f"no model at {path!r} (a folder with a config.json, or a hub id): {_first_line(error)}"
        ) from error


def example() -> tuple[Path, str]:
    """The image that ships with foveate, and a question about it."""
    folder = Path(__file__).parent / "assets"
    return folder / "example.jpg", json.loads((folder / "example.json").read_text())["question"]


def planned_grids(path: str | Path | None, config: Any, height: int, width: int, frames: int = 0) -> tuple[Grid, ...]:
    """The grids that an image (frames = 0) or video of this size becomes, as the checkpoint's processor resizes it."""
    family = family_of(config)
    kind: Kind = "video" if frames else "image"
    try:
        limits = _processor_names(str(path or embedded_model_path()), kind)
    except OSError:
        limits = {}
    return family.planned(config, kind, height, width, frames or 1, limits)


def torchvision_works() -> bool:
    """Whether torchvision imports: it may be missing, or there but built for another torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


def _processor(path: str) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(path) if torchvision_works() else _images_only_processor(path)


def _images_only_processor(path: str) -> Any:
    """The checkpoint's processor on PIL, without its video part, which transformers builds on torchvision."""
    import transformers

    names = _processor_names(path)
    whole = getattr(transformers, names["processor_class"])
    pil = getattr(transformers, names["image_processor_type"].removesuffix("Fast").removesuffix("Pil") + "Pil", None)
    if pil is None:
        raise ImportError(f"{names['image_processor_type']} needs torchvision; pip install torchvision")

    class ImagesOnly(whole):  # type: ignore[misc, valid-type]
        """Images and text; videos need torchvision."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [a for a in whole.get_attributes() if a != "video_processor"]

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("videos") is not None:
                raise UnsupportedInput("videos are read through torchvision, which does not import here; install it")
            return super().__call__(*args, **kwargs)

    ImagesOnly.__name__ = whole.__name__
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    options = {name: names[name] for name in PROCESSOR_SETTINGS if name in names}
    return ImagesOnly(
        image_processor=pil.from_pretrained(path), tokenizer=tokenizer, chat_template=tokenizer.chat_template, **options
    )


def _processor_names(path: str, kind: Kind = "image") -> dict[str, Any]:
    """What the checkpoint's processor files say of classes, and of settings for images or videos; newer files win."""
    from transformers.utils import cached_file

    found: dict[str, Any] = {}
    names = ["preprocessor_config.json", "processor_config.json"]
    if kind == "video":
        names.insert(1, "video_preprocessor_config.json")
    for name in names:
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        if file:
            content = json.loads(Path(file).read_text())
            found |= content.get(f"{kind}_processor", {}) | content
    if "processor_class" not in found or "image_processor_type" not in found:
        raise OSError("its processor files name no processor_class and image_processor_type")
    return found


def open_image(path: str | Path) -> Image.Image:
    """An image file in RGB, upright, no side longer than LONGEST_SIDE.

    Raises InvalidValue for a file that is missing, empty, no image, cut off, or too large to be one.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidValue(f"no image at {path}")
    if path.is_dir():
        raise InvalidValue(f"{path} is a folder; give an image file")
    if path.stat().st_size == 0:
        raise InvalidValue(f"{path} is empty")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            if image.width * image.height * len(image.getbands()) > MOST_BYTES:
                raise InvalidValue(
                    f"{path} has {image.width}x{image.height} pixels of {len(image.getbands())} bytes; make it smaller "
                    f"than {MOST_BYTES:,} bytes"
                )
            image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            return _reduced(image)
    except UnidentifiedImageError as error:
        raise InvalidValue(f"{path} is no image that Pillow can read; convert it to PNG or JPEG") from error
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        if isinstance(error, InvalidValue):
            raise
        raise InvalidValue(f"{path} is broken: {_first_line(error)}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _reduced(image: Image.Image) -> Image.Image:
    factor = -(-max(image.size) // LONGEST_SIDE)
    if factor > 1:
        image = image.reduce(factor)
    upright = ImageOps.exif_transpose(image)
    return upright.convert("RGB")


def check_aspect(image: Image.Image, name: str) -> None:
    """Raises InvalidValue for an image no processor takes: longer than 200 times its width."""
    if max(image.size) > 200 * min(image.size):
        raise InvalidValue(f"{name} is {image.width}x{image.height}; crop it: no side may be over 200 times the other")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
