"""Cards and docs/methods.md say what the classes say, and the page is fresh."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foveate import cards
from foveate.cli import app
from foveate.errors import InvalidValue
from foveate.families import families
from foveate.left_out import LEFT_OUT
from foveate.method import Card, Method, all_methods, get_method
from foveate.ops.schedule import Linear
from foveate.pieces import Cls, Norm, Read
from foveate.plan import Layer, ModelShape, Positions, Projector, Step, Vision, along

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


def methods(*arguments):
    return CliRunner().invoke(app, ["methods", *arguments])


def test_the_page_is_fresh():
    stale = "docs/methods.md is stale: foveate methods --markdown > docs/methods.md"
    assert cards.markdown() == PAGE.read_text(), stale


def test_the_page_has_every_method_that_ships_once_in_the_table_and_once_as_a_card():
    text = PAGE.read_text()
    shipped = sorted(n for n, c in all_methods().items() if c.__module__.startswith("foveate."))
    assert sorted(re.findall(r"^\| \[(\S+)\]\(#\1\) ", text, re.M)) == shipped
    assert sorted(re.findall(r"^### (\S+)$", text, re.M)) == shipped


def test_the_command_prints_the_page_and_nothing_beside_it():
    assert methods("--markdown").stdout == cards.markdown()
    assert methods("aim", "--markdown").exit_code != 0


@dataclass(frozen=True)
class Mixed(Method):
    """Tower, projector and LLM.

    seed   said below the first line
    """

    keep: float = 0.5
    positions: Positions | None = None

    card = Card("mixed", "Everywhere", paper="arXiv 2412.03248", venue="ICCV 2025", modality=("video",))

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(Vision(), self.keep, score=Read(Cls()), positions="compact")
        yield Step(Projector(), self.keep / 2, score=Norm(), per="prompt")
        yield from (replace(s, keep=s.keep / 4) for s in along(Linear(), model, Norm()))


@dataclass(frozen=True)
class Apart(Mixed):
    """Two layers that are no neighbours, and one that clears the earlier caches."""

    def steps(self, model: ModelShape) -> Iterator[Step]:
        yield Step(Layer(2), 0.5, score=Norm())
        yield Step(Layer(5), 0.25, score=Norm())
        yield Step(Layer(6), 0.1, score=Norm(), cache="all")


def test_an_entry_is_derived_from_the_class():
    e = cards.entry(Mixed)
    assert e.stages == ("vision", "projector", "llm") and e.modality == ("video",)
    assert e.link == "https://arxiv.org/abs/2412.03248" and e.source == "ICCV 2025, arXiv 2412.03248"
    assert e.summary == "Tower, projector and LLM." and e.about == "seed   said below the first line"
    assert e.settings == {"keep": "0.5", "positions": "None"}
    assert e.on == "LLaVA-1.5-7B"
    assert set(e.reads) == {str(Cls())} and e.reads[str(Cls())].startswith("Attention the CLS")
    assert e.positions == "compact at the vision tower, keep at the projector, keep at the language model"
    assert e.steps == (
        f"at vision: keep 0.5 per image by {Cls()}, TopK(), Drop()",
        "at projector: keep 0.25 per prompt by Norm(), TopK(), Drop()",
        "at layers 1 to 31: keep 0.2444 down to 0.075 per prompt by Norm(), TopK(), Drop()",
    )
    assert cards.entry(Apart).steps == (
        "at layers 2, 5: keep 0.5, 0.25 per image by Norm(), TopK(), Drop()",
        "at layer 6: keep 0.1 per image by Norm(), TopK(), Drop(), in the caches of all layers",
    )


def test_a_family_that_cannot_run_it_says_why():
    runs = cards.runs_on(Mixed)
    assert set(runs) == {f.title for f in families().values()}
    assert runs["LLaVA-1.5"] == "" and "needs a CLS token" in runs["Qwen2.5-VL"]


@pytest.mark.parametrize("name", all_methods())
def test_every_method_has_a_stage_a_step_and_a_family(name):
    e = cards.entry(all_methods()[name])
    assert e.stages and e.steps and e.positions and e.summary.endswith(".")
    assert "" in cards.runs_on(all_methods()[name]).values()


def test_lists_are_grouped_and_filtered():
    assert [e.stages for e in cards.entries()] == sorted(
        (e.stages for e in cards.entries()), key=lambda s: [list(cards.STAGES).index(x) for x in s]
    )
    shown = methods("--stage", "vision").stdout
    assert "visionzip" in shown and "fastv " not in shown and shown.startswith("vision tower\n")
    both = {m["name"] for m in json.loads(methods("--stage", "llm", "--modality", "video", "--json").stdout)}
    assert both == {e.name for e in cards.entries() if "llm" in e.stages and "video" in e.modality}
    assert methods("--stage", "elsewhere").exit_code != 0


def test_a_card_shows_all_there_is():
    shown = methods("visionzip").stdout
    for part in (
        "settings",
        "steps at these settings on",
        "reads",
        "runs on",
        "deviations",
        "arxiv.org/abs/2412.04467",
    ):
        assert part in shown
    got = json.loads(methods("visionzip", "--json").stdout)[0]
    assert got["families"]["LLaVA-1.5"] == "" and got["stages"] == ["vision"] and got["checked"] == []


def test_a_method_left_out_says_why():
    assert not LEFT_OUT.keys() & all_methods().keys()
    with pytest.raises(InvalidValue, match=r"^TRIM \(COLING 2025\) is not here: it ranks by CLIP's text tower"):
        get_method("trim")
