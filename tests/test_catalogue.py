"""The catalogue: its records are clean, its search is what it says, and it knows what is implemented."""

import json
import re
import subprocess
import sys
from importlib.resources import files

import pytest
from typer.testing import CliRunner

from foveate import catalogue
from foveate.catalogue import implementations, near, papers, search
from foveate.cli import app
from foveate.method import Card, all_methods

LINES = (files("foveate") / "assets" / "catalogue.jsonl").read_text().splitlines()

#: what the library is to implement, and what its video survey names
WANTED = """
DivPrune, VisionZip, FastV, SCOPE, MMTok, CDPruner, VisPruner, FasterVLM, PyramidDrop, SparseVLM, DART, VScan, Nüwa,
ApET, ToMe, PruMerge, HiRED, GlobalCom², HoloV, PACT, FlowCut, HiPrune, PruneSID, MoB, TransPrune, V²Drop, TRIM,
MustDrop, FiCoCo, VTW, RESTORE, Cen-Prune, AIM, EVS, VidCom², V-CAST, TimeChat-Online, DTD, FastVID, HoliTom, FlashVID,
DyCoke, PruneVid, FrameFusion, STTM, LLaVA-Scissor, DyToK, SToP, UniST, AOT, FlexSelect, EarlyTom, STC, StreamingTOM
"""


def papers_command(*arguments):
    return CliRunner().invoke(app, ["papers", *arguments])


# ── the records ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_record_a_line_as_json_writes_it():
    assert len(LINES) == len(papers()) > 250
    for line in LINES:
        assert line == json.dumps(json.loads(line), ensure_ascii=False)


def test_every_record_is_one_paper():
    for key in ("id", "arxiv", "title"):
        values = [v for p in papers() if (v := getattr(p, key)) is not None]
        assert len(values) == len(set(values)), key
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", p.id) for p in papers())


@pytest.mark.parametrize("paper", papers(), ids=lambda p: p.id)
def test_a_record_is_clean(paper):
    if paper.arxiv is not None:
        year, month, number = re.fullmatch(r"(\d\d)(\d\d)\.(\d{5})", paper.arxiv).groups()
        assert 1 <= int(month) <= 12 and number != "99999", "a dummy id"
        assert paper.links.paper == f"https://arxiv.org/abs/{paper.arxiv}"
        # published in the year it appeared or later; without a venue the preprint's year
        assert paper.year >= 2000 + int(year) if paper.venue else paper.year == 2000 + int(year)
    if paper.venue is not None:
        name, year = re.fullmatch(r"([A-Z][A-Za-z ]*[A-Za-z]) (20\d\d)", paper.venue).groups()
        assert int(year) == paper.year and not re.search("NIPS|Highlight|Oral|arXiv|Trans", name)
    for text in (paper.title, *paper.aliases):
        assert text == " ".join(text.split()) and not re.search(r" :|:\S|[:.]$|：", text)
    assert all(
        link is None or re.fullmatch(r"https://\S*[^/\s]", link) for link in (paper.links.paper, paper.links.code)
    )
    assert paper.modality and paper.links.paper and paper.stage != ()


def test_what_the_library_is_for_is_there():
    names = {alias for paper in papers() for alias in paper.aliases}
    assert {w.strip() for w in WANTED.split(",")} <= names
    for name in map(str.strip, WANTED.split(",")):
        assert name in search([name])[0].aliases, "a name finds its paper first"


# ── what is implemented ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [n for n, c in all_methods().items() if "arXiv" in c.card.paper])
def test_the_paper_of_every_method_is_in_the_catalogue(name):
    assert any(name in methods for methods in implementations().values()), "add its paper to catalogue.jsonl"


def test_cards_say_what_is_implemented(monkeypatch):
    class Mine:
        card = Card("mine", "By arXiv id", paper="arXiv 2412.01818 v1")

    class Lvp:
        card = Card("lvp", "A paper without one, by name")

    class Neither:
        card = Card("fastv", "Called like a paper that has an arXiv id, but citing none")

    monkeypatch.setattr("foveate.method.all_methods", lambda: {c.card.name: c for c in (Mine, Lvp, Neither)})
    monkeypatch.setattr(catalogue, "implementations", implementations.__wrapped__)
    assert catalogue.implementations() == {"vispruner": ("mine",), "lvp": ("lvp",)}
    assert [p.id for p in search(implemented=True)] == ["vispruner", "lvp"]


def test_reading_the_catalogue_imports_no_torch():
    code = "import sys; from foveate.catalogue import papers; papers(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ── the search ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_filters_are_what_they_say():
    for wanted, passes in {
        "training_free": lambda p: p.training_free in ("yes", "calibration"),
        "implemented": lambda p: p.id in implementations(),
        "modality": lambda p: "video" in p.modality,
        "year": lambda p: p.year == 2025,
    }.items():
        given = {"modality": "video", "year": 2025}.get(wanted, True)
        found = {p.id for p in search(**{wanted: given})}
        assert found == {p.id for p in papers() if passes(p)} and 0 < len(found) < len(papers())
    both = search(["token"], training_free=True, year=2026)
    assert both and all(p.year == 2026 and p.training_free != "no" and "token" in p.title.lower() for p in both)


def test_all_words_count_and_accents_do_not():
    assert [p.id for p in search(["flash", "video"])] == ["flashvid", "videochat-flash"]
    assert search(["NUWA"])[0].id == "nuwa" and search(["vidcom2"])[0].id == "vidcom2"
    assert [p.id for p in search(["2412.03248"])] == ["aim"]
    assert {p.venue for p in search(["cvpr", "2026"])} == {"CVPR 2026"}


def test_the_named_one_is_first_then_the_implemented_then_the_newest(monkeypatch):
    order = [(p.id in implementations(), p.year or 0) for p in search(["prune"])]
    assert order == sorted(order, reverse=True) and len({o[0] for o in order}) == 2
    monkeypatch.setattr(catalogue, "implementations", lambda: {"focusllava": ("mine",)})
    first, second, *rest = search(["focus"])
    assert (first.id, second.id) == ("focus", "focusllava")
    assert [p.year for p in rest] == sorted((p.year for p in rest), reverse=True)


def test_near_names():
    assert "FastV" in near(["fasvt"]) and near(["vision", "zip"])[0] == "VisionZip"
    assert near(["qqqqqqqq"]) == []


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_json_holds_the_records_and_what_is_implemented():
    found = json.loads(papers_command("visionzip", "--json").stdout)
    assert [p["id"] for p in found] == ["visionzip"] and found[0]["implemented"] == ["visionzip"]
    assert found[0]["links"]["code"] == "https://github.com/dvlab-research/VisionZip"


def test_one_hit_is_shown_with_its_links_and_its_whole_title():
    shown = papers_command("vtc-cls").stdout
    assert "[CLS] Token Tells Everything" in shown and "https://arxiv.org/abs/2412.05819" in shown
    assert "not in foveate" in shown


def test_many_hits_are_a_table():
    shown = papers_command("--implemented", "--modality", "video").stdout
    assert (
        "AIM" in shown and "ICCV 2025" in shown and f"{len(search(implemented=True, modality='video'))} papers" in shown
    )


def test_no_hit_names_what_is_near_and_is_no_failure():
    result = papers_command("fasvt")
    assert result.exit_code == 0 and "no paper has 'fasvt'" in result.stdout and "FastV" in result.stdout
    result = papers_command("fasvt", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout) == [] and "FastV" in result.stderr
    assert "no paper passes the filters" in papers_command("--year", "1999").stdout


def test_help_ends_with_commands_that_work():
    text = papers_command("--help").stdout
    examples = [line.split()[2:] for line in text[text.index("Examples:") :].splitlines() if "foveate papers" in line]
    assert len(examples) == 2
    for arguments in examples:
        assert papers_command(*arguments).exit_code == 0 and "papers" in papers_command(*arguments).stdout
