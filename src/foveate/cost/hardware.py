"""The devices the cost model knows, read from TOML: what ships, what a user adds, what a calibration wrote."""

from __future__ import annotations

import bisect
import json
import os
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ..errors import InvalidValue, unknown_name

OperandType = Literal["bf16", "fp16", "fp8", "int8", "fp4", "fp32"]
BITS: dict[OperandType, int] = {"fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4}

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Curve(_Table):
    """The fraction of a peak that is reached at a size: time is linear in size between points, the fraction constant
    outside them.
    """

    points: tuple[tuple[Positive, Fraction], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ascending(self) -> Curve:
        sizes = [size for size, _ in self.points]
        if sizes != sorted(set(sizes)):
            raise ValueError(f"the sizes of a curve must ascend, got {sizes}")
        return self

    def at(self, size: float) -> float:
        """The fraction at this size."""
        sizes = [s for s, _ in self.points]
        after = bisect.bisect_right(sizes, size)
        if after in (0, len(sizes)):
            return self.points[0 if after == 0 else -1][1]
        (low, a), (high, b) = self.points[after - 1], self.points[after]
        share = (size - low) / (high - low)
        return size / ((1 - share) * low / a + share * high / b)


def _curve(value: Any) -> Any:
    """A bare number is a curve that is flat, a list its points."""
    if isinstance(value, int | float):
        value = [[1, value]]
    return {"points": value} if isinstance(value, list | tuple) else value


AnyCurve = Annotated[Curve, BeforeValidator(_curve)]


class Efficiency(_Table):
    """What is reached of a device's peaks.

    gemm         of the FLOP/s, at so many rows (tokens x batch)
    attention    of the FLOP/s, at so many keys for each query
    causal       the same where each query sees only what is before it, on the pairs that are needed
    vector       of the vector FLOP/s
    memory       of the bandwidth, in matmuls and attention
    elementwise  of the bandwidth, in all other operations, at so many bytes moved
    link         of the link
    """

    gemm: AnyCurve
    attention: AnyCurve
    causal: AnyCurve
    vector: Fraction
    memory: Fraction
    elementwise: AnyCurve
    link: Fraction = 1.0
    source: str


#: every peak of the data sheet reached
IDEAL = Efficiency.model_validate(
    dict(gemm=1, attention=1, causal=1, vector=1, memory=1, elementwise=1, source="the data sheet")
)


class Hardware(_Table):
    """One device.

    flops        dense FLOP/s of matmuls by operand type; a type that is missing has no units
    vector       FLOP/s of everything else, in fp32
    bandwidth    bytes/s of the memory;  memory, cache: bytes
    link         bytes/s to the other devices, one direction; 0 where there is none
    launch_us    microseconds that the smallest operation takes
    efficiency   what is reached of these peaks, and where that comes from
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    flops: dict[OperandType, Positive] = Field(min_length=1)
    vector: Positive
    bandwidth: Positive
    memory: Positive
    cache: Positive
    link: float = Field(default=0.0, ge=0)
    launch_us: float = Field(default=3.0, ge=0)
    efficiency: Efficiency
    source: str

    @property
    def default_type(self) -> OperandType:
        """The operand type a 16-bit model runs in here: bf16 where there are units for it."""
        return next(t for t in ("bf16", "fp16", "fp32", *self.flops) if t in self.flops)

    def ideal(self) -> Hardware:
        """The same device, its peaks reached and operations launched in no time."""
        return self.model_copy(update={"efficiency": IDEAL, "launch_us": 0.0})


def user_folder() -> Path:
    """Where `foveate cost calibrate` writes; every estimate reads all TOML files there."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "foveate" / "hardware"


def all_hardware(file: str | Path | None = None) -> dict[str, Hardware]:
    """All devices by name: those that ship, then the user's own, then those of `file`; later ones win."""
    found = dict(_shipped())
    for path in [*sorted(user_folder().glob("*.toml")), *([file] if file else [])]:
        found |= read_hardware(path)
    return found


def get_hardware(name: str, file: str | Path | None = None) -> Hardware:
    """A device by name or alias, case and spaces aside. Raises InvalidValue that names the nearest ones."""
    known = all_hardware(file)
    wanted = _plain(name)
    for device in reversed(known.values()):
        if wanted in map(_plain, (device.name, *device.aliases)):
            return device
    if wanted == "cpu":
        raise InvalidValue("this machine's CPU has not been measured yet; run `foveate cost calibrate` once")
    raise unknown_name("hardware", name, known)


def read_hardware(path: str | Path) -> dict[str, Hardware]:
    """The devices of a TOML file. Raises InvalidValue that names the file, the device and the field at fault."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidValue(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidValue(f"{path} is no TOML: {error}") from error
    return _devices(content, str(path))


def write_hardware(device: Hardware, path: str | Path) -> None:
    """Write one device as a TOML file, which `read_hardware` reads back equal."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = device.model_dump(exclude={"efficiency", "flops"}) | {"aliases": list(device.aliases)}
    reached = {
        name: [list(point) for point in value["points"]] if isinstance(value, dict) else value
        for name, value in device.efficiency.model_dump().items()
    }
    tables: dict[str, dict[str, Any]] = {
        "[[device]]": fields, "[device.flops]": dict(device.model_dump()["flops"]), "[device.efficiency]": reached
    }  # fmt: skip
    lines = []
    for heading, table in tables.items():
        lines += [heading, *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


@cache
def _shipped() -> dict[str, Hardware]:
    return _devices(_shipped_content(), "hardware.toml")


@cache
def _shipped_content() -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath("hardware.toml").read_text(encoding="utf-8"))


def _devices(content: dict[str, Any], where: str) -> dict[str, Hardware]:
    tables = _shipped_content()["efficiency"] | content.get("efficiency", {})
    rows, found = content.get("device", []), {}
    if not isinstance(rows, list) or not rows:
        raise InvalidValue(f"{where} holds no device; each begins with [[device]] and has name, flops, bandwidth, ...")
    for row in rows:
        name = row.get("name", "?")
        chosen = row.get("efficiency", "gpu")
        if isinstance(chosen, str):
            if chosen not in tables:
                raise unknown_name(f"efficiency of {name} in {where}:", chosen, tables)
            row = row | {"efficiency": tables[chosen]}
        try:
            found[name] = Hardware.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"]))
            raise InvalidValue(f"{where}: device {name!r}: {at}: {first['msg']}") from error
    return found


def _plain(name: str) -> str:
    return name.lower().replace(" ", "-").replace("_", "-")
