"""`foveate cost`: what a prompt costs on a device with and without compression, from a config alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import InvalidValue
from . import options as o

if TYPE_CHECKING:
    from ..cost.deployment import Deployment
    from ..cost.ledger import Compression
    from ..cost.tokens import Inputs

Model = Annotated[str, typer.Argument(help="Bundled name, folder, config.json or hub id (foveate cost --list).")]
Image = Annotated[list[str] | None, typer.Option("--image", metavar="WxH", help="An image in pixels; repeatable.")]
Video = Annotated[
    list[str] | None, typer.Option("--video", metavar="FRAMESxWxH[@FPS]", help="A video, as sampled; repeatable.")
]
Hardware = Annotated[str, typer.Option(help="A device of the table; `cpu` once it is calibrated.")]
HardwareFile = Annotated[Path | None, typer.Option(metavar="TOML", help="More devices, in the form of the table.")]
Bits = Annotated[int | None, typer.Option(metavar="BITS", help="Of the language model's blocks; those of dtype else.")]
Aim = Annotated[
    str | None, typer.Option("--aim", metavar="KEEP:START:END", help="AIM's own parameters, as its tables count them.")
]
Tokens = Annotated[
    str | None,
    typer.Option("--tokens-per-layer", metavar="N[xLAYERS],...", help="Visual tokens of each layer: 576x2,144x30."),
]
Solve = Annotated[
    str | None,
    typer.Option(
        metavar="TARGET=VALUE",
        help="Find the keep: t_eq, tflops, language_tflops, ttft_ms, total_ms, kv_mb or memory_gb.",
    ),
]


class Group(TyperGroup):
    """`foveate cost MODEL` is `foveate cost estimate MODEL`: what is no sub-command belongs to the first one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with the sub-command that is meant."""
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["estimate", *args])


app = typer.Typer(cls=Group, help="What a prompt costs, and what compression saves of it.", rich_markup_mode="rich")


def estimate(
    model: Model = "embedded",
    image: Image = None,
    video: Video = None,
    text: Annotated[int, typer.Option(min=1, help="Text tokens, the chat template's among them.")] = 50,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the answer.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Equal prompts at once.")] = 1,
    method: Annotated[str | None, typer.Option(help="Name of a method (foveate methods).")] = None,
    keep: o.Keep = None,
    merge_ratio: o.MergeRatio = None,
    schedule: o.ScheduleName = None,
    final_prune_ratio: o.FinalPruneRatio = None,
    importance: o.Importance = None,
    adaptive: o.AdaptiveRange = None,
    settings: o.Set = None,
    recipe: Annotated[Path | None, typer.Option(help="Method and settings from this YAML file.")] = None,
    tokens_per_layer: Tokens = None,
    aim: Aim = None,
    solve: Solve = None,
    hardware: Hardware = "a100-80gb",
    hardware_file: HardwareFile = None,
    dtype: Annotated[str | None, typer.Option(help="bf16, fp16, fp8, int8, fp4 or fp32.")] = None,
    w_bits: Bits = None,
    a_bits: Bits = None,
    kv_bits: Bits = None,
    tp: Annotated[int, typer.Option(help="Devices that share the language model.")] = 1,
    attention: Annotated[str, typer.Option(help="fused, or eager as transformers computes it.")] = "fused",
    profile: Annotated[str | None, typer.Option(help="llm-viewer: its numbers beside ours.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write every operation to this file.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Write a picture: roofline, parts, layers, sweep.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write the interactive page: all of this in one HTML file.")] = None,
    names: Annotated[bool, typer.Option("--list", help="List models and hardware.")] = False,
    as_json: o.Json = False,
) -> None:
    """Count FLOPs, bytes, milliseconds and gigabytes, part by part. Loads no weights and needs no GPU."""
    from ..cost.deployment import Deployment

    if names:
        return _list(hardware_file, as_json)
    outputs = _outputs(csv, figure, page)
    inputs = _inputs(image, video, text, new_tokens, batch)
    words = o.words(keep, merge_ratio, schedule, final_prune_ratio, importance, adaptive, None, settings)
    deployment = Deployment.of(
        model, hardware, hardware_file=hardware_file, dtype=dtype, w_bits=w_bits, a_bits=a_bits, kv_bits=kv_bits,
        tp=tp, attention=attention,
    )  # fmt: skip
    compression = _compression(method, words, recipe, tokens_per_layer, aim)
    if solve is not None:
        compression = _solved(deployment, inputs, compression, words, solve)
    _print(deployment, inputs, compression, profile, outputs, as_json)


def calibrate(
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, ...")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; fp32 on a CPU, else bf16.")] = None,
    name: Annotated[str | None, typer.Option(help="What --hardware shall call it; the device by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write here, not to the folder that every estimate reads.")] = None,
) -> None:
    """Measure this device for about a minute, so that estimates for it are no guess. Let nothing else run meanwhile."""
    from ..cost.calibrate import calibrate as measure
    from ..cost.hardware import user_folder, write_hardware
    from .cost_tables import device_lines
    from .show import busy
    from .show import out as console

    chosen = dtype or ("fp32" if device == "cpu" else "bf16")
    with busy("measuring"):
        found = measure(device, chosen, name)
    path = out or user_folder() / f"{found.name}.toml"
    write_hardware(found, path)
    console.print(device_lines(found), markup=False)
    console.print(f"\nwritten to {path}; use it with --hardware {found.name}" + " and --hardware-file" * bool(out))


def _print(
    deployment: Deployment, inputs: Inputs, compression: Compression, profile: str | None,
    outputs: dict[str, Path], as_json: bool,
) -> None:  # fmt: skip
    from ..cost.estimate import named, report
    from .cost_tables import show, viewed

    found = report(deployment, inputs, compression)
    seen = None if profile is None else viewed(profile, deployment, found)
    if "csv" in outputs:
        outputs["csv"].write_text(found.to_csv())
    if "figure" in outputs:
        from ..cost.figures import draw

        draw(deployment, found, named(compression), outputs["figure"])
    if "page" in outputs:
        from ..cost.page import write_page

        write_page(outputs["page"], deployment, inputs, named(compression))
    written = {name: str(path) for name, path in outputs.items()}
    if as_json:
        print(json.dumps(found.to_dict() | ({"profile": seen} if seen else {}) | {"written": written}))
    else:
        show(found, seen, written)


def _list(hardware_file: Path | None, as_json: bool) -> None:
    from ..cost.hardware import all_hardware
    from ..cost.hf import bundled
    from .cost_tables import show_lists

    devices = all_hardware(hardware_file)
    if as_json:
        print(json.dumps({"models": list(bundled()), "hardware": [d.model_dump() for d in devices.values()]}))
    else:
        show_lists(list(bundled()), list(devices.values()))


# ── what was written, as what is meant ───────────────────────────────────────────────────────────────────────────


def _inputs(images: list[str] | None, videos: list[str] | None, text: int, new_tokens: int, batch: int) -> Inputs:
    from ..cost import tokens

    if not images and not videos:
        images = ["672x448"]
    sizes = [_numbers("--image", x, r"(\d+)x(\d+)", "WIDTHxHEIGHT in pixels, as in 672x448") for x in images or []]
    form = "FRAMESxWIDTHxHEIGHT[@FPS], as in 32x384x384@2"
    clips = [_numbers("--video", x, r"(\d+)x(\d+)x(\d+)(?:@(\d+(?:\.\d+)?))?", form) for x in videos or []]
    return tokens.Inputs(
        tuple((int(w), int(h)) for w, h in sizes),
        tuple(tokens.Video(int(n), int(w), int(h), *rest) for n, w, h, *rest in clips),
        text=text, batch=batch, new_tokens=new_tokens,
    )  # fmt: skip


def _numbers(option: str, text: str, pattern: str, form: str) -> list[float]:
    found = re.fullmatch(pattern, text.lower())
    if found is None:
        raise InvalidValue(f"{option} takes {form}, got {text!r}")
    return [float(x) for x in found.groups() if x is not None]


def _compression(
    method: str | None, words: dict[str, Any], recipe: Path | None, tokens: str | None, aim: str | None
) -> Compression:
    """The one way in which a compression was given, None if there is none."""
    given = {"--method": method, "--recipe": recipe, "--tokens-per-layer": tokens, "--aim": aim}
    several = [name for name, value in given.items() if value is not None]
    if len(several) > 1:
        raise InvalidValue(f"{' and '.join(several)} say the same thing; give one of them")
    if words and not (method or recipe):
        raise InvalidValue(f"{', '.join(words)}: settings of which method? name it with --method")
    if method == "none" and not words:
        return None
    if method is not None:
        return o.make_method(method, words)
    if recipe is not None:
        from ..method import get_method
        from ..recipe import Recipe

        return get_method(Recipe.load(recipe).to_method(), **words)
    if aim is not None:
        from ..cost.ledger import AimParameters

        keep, start, end = _numbers("--aim", aim, r"([\d.]+):(\d+):(\d+)", "KEEP:START:END, as in 0.25:14:22")
        return AimParameters(keep, int(start), int(end))
    return None if tokens is None else _tokens(tokens)


def _tokens(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        form = "N or NxLAYERS, as in 576x2,144x30"
        n, *times = _numbers("--tokens-per-layer", part.strip(), r"(\d+)(?:x(\d+))?", form)
        found += [int(n)] * int(times[0] if times else 1)
    return found


def _solved(
    deployment: Deployment, inputs: Inputs, compression: Compression, words: dict[str, Any], text: str
) -> Compression:
    from ..cost.solve import solve
    from ..method import Method

    if not isinstance(compression, Method):
        raise InvalidValue("--solve finds the keep of a method; name it with --method")
    if {"keep", "merge_ratio", "adaptive"} & set(words):
        raise InvalidValue("--solve finds the keep; leave --keep, --merge-ratio and --adaptive out")
    target, equals, value = text.partition("=")
    if not equals:
        raise InvalidValue(f"--solve takes TARGET=VALUE, as in t_eq=64, got {text!r}")
    return solve(deployment, inputs, compression, target, o.number("--solve", value) or 0.0)


def _outputs(csv: Path | None, figure: Path | None, page: Path | None) -> dict[str, Path]:
    """What is to be written, once it is sure that it can be."""
    given = {"csv": csv, "figure": figure, "page": page}
    wanted = {name: path for name, path in given.items() if path is not None}
    for name, ending in (("figure", ".png"), ("page", ".html")):
        if name in wanted and wanted[name].suffix.lower() != ending:
            raise InvalidValue(f"--{name} writes a {ending} file, got {wanted[name]}")
    for path in wanted.values():
        if not path.parent.is_dir():
            raise InvalidValue(f"cannot write {path}: there is no folder {path.parent}")
    return wanted


def _examples(*commands: str) -> str:
    return "\n\n".join(["Examples:", *(f"foveate cost {c}" for c in commands)])


app.command(
    epilog=_examples(
        "qwen2.5-vl-7b --image 1344x1008 --method divprune --keep 0.25 --hardware h100",
        "llava-onevision-7b --video 32x384x384 --method aim --solve ttft_ms=200",
    )
)(estimate)
app.command(epilog=_examples("calibrate", "calibrate --device cuda --dtype bf16"))(calibrate)
