"""The page: one file with every part in it, safe whatever the questions say, each number with a recipe that runs."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from handmade import FASTV, HOSTILE, LEVELS
from typer.testing import CliRunner

from foveate.cli import app
from foveate.errors import InvalidValue
from foveate.measure.comparison import summary
from foveate.measure.study import Study
from foveate.method import get_method
from foveate.recipe import Recipe
from foveate.report import page, write_report
from foveate.report.figures import CONTROLS, marks_of, ticks
from foveate.report.formats import flops, short, signed, size
from foveate.report.source import Source

VOID = {"meta", "img", "br", "input", "link", "base"}


class Page(HTMLParser):
    """What is in a page: elements with their attributes, texts by the id they stand under."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts, self.cells = [], [], {}, []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes).get("id")))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, f"</{tag}> ends {self.open[-1]}"
        self.open.pop()

    def handle_data(self, text):
        for _, name in self.open:
            self.texts[name] = self.texts.get(name, "") + text
        if any(tag == "td" for tag, _ in self.open) and text.strip():
            self.cells.append(({name for _, name in self.open}, self.open[-1][0], text.strip()))

    def attributes(self, *names):
        return [a[n] for _, a in self.elements for n in names if n in a]


@pytest.fixture(scope="module")
def text(comparison):
    return page([comparison])


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


def test_every_part_is_there(parsed):
    parts = ("score", "time", "layers", "kinds", "overlays", "cases", "broken", "record")
    ids = parsed.attributes("id")
    assert len(ids) == len(set(ids)) and {f"{part}-0" for part in parts} | {"pair", "recipes", "data"} <= set(ids)
    assert set(parsed.attributes("href")) >= {f"#{part}-0" for part in parts if part != "broken"}


def test_nothing_is_loaded_from_anywhere(text, parsed):
    assert all(url.startswith(("#", "data:image/jpeg;base64,")) for url in parsed.attributes("href", "src"))
    assert not {tag for tag, _ in parsed.elements} & {"link", "iframe", "object", "embed", "base"}
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    [policy] = [a["content"] for tag, a in parsed.elements if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_what_a_question_says_is_text(text, parsed):
    assert sum(tag == "script" for tag, _ in parsed.elements) == 2
    assert not [a for _, a in parsed.elements if any(name.startswith("on") for name in a)]
    assert all(a["src"].startswith("data:") for tag, a in parsed.elements if tag == "img")
    assert HOSTILE in parsed.texts["cases-0"] and f"no picture: {HOSTILE}" in parsed.texts["broken-0"]
    block = parsed.texts["data"]
    assert "<" not in block and json.loads(block)["studies"][0]["overlays"][0]["question"] == HOSTILE
    assert "49" not in parsed.texts["cases-0"], "templates in data are not run"


def test_every_number_leads_to_a_recipe(parsed):
    links = [a["href"] for tag, a in parsed.elements if tag == "a" and a.get("class") == "n"]
    bare = [text for ids, tag, text in parsed.cells if tag == "td" and ids & {"score-0", "time-0", "kinds-0"}]
    assert not bare, "a number in these tables stands in a link, or is the interval beside it"
    assert len(links) >= 100 and set(links) <= {f"#{name}" for name in parsed.attributes("id")}


def test_a_recipe_gives_back_the_method(comparison, tmp_path):
    recipes = {e.key: text for e, text in Source.of(comparison, 0, 1).recipes().values()}
    for key, method in {
        ("fastv", LEVELS[0]): get_method("fastv", **FASTV),
        ("mine", LEVELS[0]): get_method("visionzip", keep=0.3),
    }.items():
        (tmp_path / "r.yaml").write_text(recipes[key])
        assert Recipe.load(tmp_path / "r.yaml").to_method() == method
        assert "# measured by: foveate compare --methods fastv,mine=visionzip" in recipes[key]
    assert "without a method" in recipes["uncompressed", None]


def test_numbers_are_those_of_the_comparison(comparison):
    entries = {e.key: e for e in Source.of(comparison, 0, 1).entries}
    expected = summary(Study.open(comparison).rows(), "accuracy", "correct")
    assert {e.key for e in expected.entries} == set(entries)
    for e in expected.entries:
        got = entries[e.key].numbers
        assert (got["score"].value, got["score"].low, got["score"].high) == (e.score.mean, e.score.low, e.score.high)
        assert got["t_eq"].value == e.t_eq and entries[e.key].get("ttft_ms") == e.ttft_ms
        if e.change is not None:
            assert (got["change"].value, got["change"].low) == (e.change.mean, e.change.low)
    source = Source.of(comparison, 0, 1)
    assert {e.key for e in source.front("t_eq")} == {e.key for e in expected.entries if e.best_for_t_eq}
    assert {e.key for e in source.front("ttft_ms")} == {e.key for e in expected.entries if e.best_for_time}


def test_broken_samples_and_missing_budgets_are_counted_and_listed(parsed):
    assert "1 broken sample of 21" in parsed.texts["broken-0"]
    assert f"mine at {LEVELS[1]}" in parsed.texts["broken-0"] and "out of reach" in parsed.texts["broken-0"]
    assert "No overlay of mine at T_eq 50% on s3: RuntimeError: it broke" in parsed.texts["broken-0"]


def test_the_worst_case_comes_first(comparison):
    cases, total = Source.of(comparison, 0, 1).cases()
    rows = [r for r in Study.open(comparison).rows() if r["kind"] == "accuracy" and not r["error"]]
    lost = {s: sum(r["sample"] == s and not r["correct"] for r in rows) for s in {r["sample"] for r in rows}}
    assert [c.lost for c in cases] == sorted((n for n in lost.values() if n), reverse=True) and total == len(cases)
    worst = next(c for c in cases if c.sample == "s3")
    assert worst.question == HOSTILE and worst.picture.startswith("data:image/jpeg") and worst.truth == "red"
    assert {e.key for _, e in worst.changes} >= {("fastv", LEVELS[0]), ("fastv", LEVELS[1])}


def test_where_a_method_does_not_pay_is_said(parsed):
    assert "1 of 2 are no sooner" in parsed.texts["time-0"]
    assert "fastv at T_eq 50% does not pay here: the first token comes 2.00x later" in parsed.texts["time-0"]


def test_an_evaluation_and_a_search_have_their_own_parts(evaluation, search, comparison):
    parsed = Page(page([evaluation, search, comparison]))
    assert (
        "This study is not finished" in parsed.texts["study-0"]
        and "2 lost, 0 gained, p = 0.5" in parsed.texts["study-0"]
    )
    trials = " ".join(parsed.texts["trials-1"].split())
    assert trials.index("fastv, trial 1") < trials.index("fastv, trial 0") < trials.index("fastv, trial 2")
    assert "given up: too dear" in trials and "refused: no such layer" in trials
    assert {"score-1", "score-2", "pair"} <= set(parsed.attributes("id"))
    numbers = [set(study["entries"]) for study in json.loads(parsed.texts["data"])["studies"]]
    assert numbers[0] and numbers[2] and not numbers[0] & numbers[2], "recipes of two studies have different numbers"


def test_a_study_that_was_just_begun_has_a_page(tmp_path):
    Study.create(tmp_path / "s", "bench")
    assert "record-0" in Page(page([tmp_path / "s"])).attributes("id")


def test_a_row_that_a_kill_cut_off_is_no_matter(comparison, tmp_path):
    for name in ("study.json", "rows.jsonl"):
        (tmp_path / name).write_bytes((comparison / name).read_bytes())
    with open(tmp_path / "rows.jsonl", "a") as file:
        file.write('{"kind": "accuracy", "meth')
    assert Page(page([tmp_path])).texts["kinds-0"]


def test_the_report_imports_no_torch(comparison, tmp_path):
    code = (
        "import sys; from foveate.report import write_report; write_report(sys.argv[1], sys.argv[2:]);"
        "sys.exit(', '.join({'torch', 'transformers'} & {m.split('.')[0] for m in sys.modules}) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "r.html", comparison], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == page([comparison])


def test_what_cannot_be_written_or_read_says_so(comparison, tmp_path):
    with pytest.raises(InvalidValue, match="no study in"):
        write_report(tmp_path / "r.html", [tmp_path])
    with pytest.raises(InvalidValue, match="cannot write"):
        write_report(tmp_path, [comparison])
    with pytest.raises(InvalidValue, match="needs a study"):
        page([])
    for options in (["report", comparison, "-o", tmp_path], ["bench", "--report", tmp_path / "no" / "r.html"]):
        result = CliRunner().invoke(app, [str(o) for o in options])
        assert isinstance(result.exception, InvalidValue), result.exception
    assert not Path("studies").exists()


def test_the_command_and_the_option_write_it(comparison, tmp_path):
    result = CliRunner().invoke(app, ["report", str(comparison), "-o", str(tmp_path / "a.html")])
    assert result.exit_code == 0 and (tmp_path / "a.html").read_text(encoding="utf-8") == page([comparison])
    options = [
        "--method",
        "random",
        "--keep",
        "0.3",
        "--samples",
        "2",
        "--study",
        tmp_path / "s",
        "--report",
        tmp_path / "b.html",
    ]
    result = CliRunner().invoke(app, ["fidelity", *map(str, options)])
    assert result.exit_code == 0, result.exception
    found = Page((tmp_path / "b.html").read_text(encoding="utf-8"))
    assert "overlays-0" in found.attributes("id") and "report: " in result.stderr
    again = CliRunner().invoke(app, ["fidelity", "--resume", str(tmp_path / "s"), "--report", str(tmp_path / "c.html")])
    assert again.exit_code == 0 and (tmp_path / "c.html").exists()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.31), (0.985, 1.0), (12, 4031), (0, 3e-4)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 7 and low - 1e-9 <= found[0] and found[-1] <= high * (1 + 1e-9)
    assert all(len(f"{v:.6g}".lstrip("-0.").rstrip("0").replace(".", "").split("e")[0]) <= 3 for v in found)


def test_marks_tell_methods_apart():
    methods = ["uncompressed", *CONTROLS, *(f"m{i}" for i in range(40))]
    assert len(set(marks_of(methods).values())) == len(methods)


def test_numbers_are_short():
    assert [short(x) for x in (0, 0.012345, 12.345, 1234.5, None)] == ["0", "0.0123", "12.3", "1,234", "–"]
    assert [size(2048.0), flops(3.2e12), signed(-0.5)] == ["2.05 KB", "3.2 T", "−0.500"]


@pytest.mark.parametrize("command", ["bench", "fidelity", "compare", "eval", "tune"])
def test_every_measuring_command_takes_report(command):
    assert "--report" in CliRunner().invoke(app, [command, "--help"], terminal_width=200).stdout
