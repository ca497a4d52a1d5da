"""The hardware table: what ships is sound, what a user writes is checked, curves mean what they say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.cost.hardware import (
    BITS,
    Curve,
    Hardware,
    all_hardware,
    get_hardware,
    read_hardware,
    user_folder,
    write_hardware,
)
from foveate.errors import InvalidValue

LINE = """
[[device]]
name = "mine"
title = "My card"
flops = { bf16 = 10e12, fp32 = 5e12 }
vector = 5e12
bandwidth = 400e9
memory = 16e9
cache = 4e6
source = "its box"
"""


@pytest.fixture(autouse=True)
def _no_devices_of_mine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_the_devices_that_were_promised_are_there():
    promised = [
        "A100 40GB", "a100-80gb", "H100", "h100 pcie", "H200", "B200", "L4", "L40S", "A10", "T4", "RTX 3090",
        "rtx 4090", "RTX_5090", "Jetson Orin", "M2 Max", "m3-max", "M4 Max",
    ]  # fmt: skip
    assert len({get_hardware(name).name for name in promised}) == len(promised)


@pytest.mark.parametrize("device", all_hardware().values(), ids=lambda d: d.name)
def test_a_device_is_plausible(device):
    assert device.source and device.efficiency.source
    ridge = device.flops[device.default_type] / device.bandwidth
    assert 10 < ridge < 600, "FLOPs a byte at which a device stops being starved"
    by_width = sorted(device.flops, key=lambda kind: -BITS[kind])
    assert [device.flops[k] for k in by_width] == sorted(device.flops.values()), "narrower types are not slower"
    assert device.cache < device.memory / 50 and device.link < device.bandwidth
    assert device.ideal().launch_us == 0 and device.ideal().efficiency.gemm.at(100) == 1


def test_two_figures_agree_with_another_table():
    """LLM-Viewer's FLOP/s and bandwidths, an independent reading of the same data sheets."""
    theirs = {"a100-40gb": (312e12, 1555e9), "a100-80gb": (312e12, 2039e9), "h100-pcie": (756.5e12, 2048e9)}
    for name, (flops, bandwidth) in theirs.items():
        ours = get_hardware(name)
        assert ours.flops["fp16"] == flops and abs(ours.bandwidth / bandwidth - 1) < 0.03


def test_names_and_aliases_are_each_of_one_device():
    names = [n.lower().replace("_", "-") for d in all_hardware().values() for n in {d.name, *d.aliases}]
    assert len(names) == len(set(names))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(InvalidValue, match="did you mean 'rtx-4090'"):
        get_hardware("rtx-409")
    with pytest.raises(InvalidValue, match="foveate cost calibrate"):
        get_hardware("cpu")


def test_a_line_of_ones_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(LINE)
    mine = get_hardware("mine", file)
    assert mine.flops["bf16"] == 10e12 and mine.efficiency == get_hardware("a100").efficiency
    assert mine.link == 0 and "mine" not in all_hardware()


def test_the_users_folder_is_read_and_the_given_file_wins(tmp_path):
    write_hardware(get_hardware("t4").model_copy(update={"name": "cpu", "aliases": ()}), user_folder() / "cpu.toml")
    assert get_hardware("CPU").bandwidth == 320e9
    file = tmp_path / "mine.toml"
    file.write_text(LINE.replace('"mine"', '"cpu"'))
    assert get_hardware("cpu", file).bandwidth == 400e9


@pytest.mark.parametrize("device", all_hardware().values(), ids=lambda d: d.name)
def test_what_is_written_reads_back_equal(device, tmp_path):
    write_hardware(device, tmp_path / "x.toml")
    assert read_hardware(tmp_path / "x.toml") == {device.name: device}


WRONG = {
    "negative": (LINE.replace("400e9", "-1"), "'mine': bandwidth: Input should be greater than 0"),
    "word": (LINE.replace("400e9", '"fast"'), "'mine': bandwidth"),
    "missing": (LINE.replace("vector = 5e12", ""), "'mine': vector: Field required"),
    "unknown field": (LINE + "colour = 3\n", "'mine': colour: Extra inputs"),
    "unknown type": (LINE.replace("fp32", "fp31"), "'mine': flops.fp31"),
    "efficiency": (LINE + 'efficiency = "gpuu"\n', "did you mean 'gpu'"),
    "not ascending": (
        LINE + "[device.efficiency]\ngemm = [[8, 0.1], [4, 0.2]]\nattention = 1\ncausal = 1\nvector = 1\nmemory = 1\n"
        'elementwise = 1\nsource = "x"\n',
        "must ascend",
    ),
    "no toml": ("[[device", "is no TOML"),
    "nothing": ("x = 1\n", "holds no device"),
    "one table": (LINE.replace("[[device]]", "[device]"), "holds no device"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_named_with_what_is_wrong(name, tmp_path):
    text, message = WRONG[name]
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InvalidValue) as error:
        read_hardware(file)
    assert message in str(error.value)
    assert "mine" in str(error.value), "the file or the device is named"


def test_a_file_that_is_not_there():
    with pytest.raises(InvalidValue, match=r"cannot read /no/such\.toml"):
        read_hardware("/no/such.toml")


def test_a_curve_is_linear_in_time_between_its_points():
    curve = Curve(points=((64, 0.25), (128, 0.5), (256, 0.8)))
    assert curve.at(1) == curve.at(64) == 0.25 and curve.at(10_000) == 0.8
    # 64 and 128 rows take equally long, so all between do
    assert [96 / curve.at(96), 100 / curve.at(100)] == pytest.approx([256, 256])
    assert 192 / curve.at(192) == pytest.approx((128 / 0.5 + 256 / 0.8) / 2)


@settings(deadline=None)
@given(st.sampled_from(sorted(all_hardware())), st.integers(1, 20_000), st.integers(1, 20_000))
def test_more_rows_never_take_less_time(name, rows, more):
    for curve in (all_hardware()[name].efficiency.gemm, all_hardware()[name].efficiency.causal):
        assert (rows + more) / curve.at(rows + more) >= rows / curve.at(rows) * (1 - 1e-12)


def test_a_device_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        get_hardware("a100").bandwidth = 1.0  # type: ignore[misc]
    assert isinstance(get_hardware("a100"), Hardware)
