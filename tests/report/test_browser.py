"""The page in a browser: no errors, nothing wider than the window, and what can be chosen or moved does so.

Skipped where Chromium is not installed. The checks run inside the page and hand their findings to a frame around it,
because a headless window cannot be as narrow as a phone.
"""

import html
import json
import re
import shutil
import subprocess

import pytest
from handmade import HOSTILE, LEVELS
from PIL import Image, ImageStat

from foveate.report import page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")

CHECKS = """
const found = { errors: [] };
addEventListener("error", (event) => found.errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => found.errors.push(event.blockedURI));
addEventListener("load", () => {
  const all = (css) => [...document.querySelectorAll(css)], text = (css) => all(css).map((e) => e.textContent);
  const part = "#overlays-0 ", slider = document.querySelector(part + "input[type=range]");
  const move = (value) => {
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
    return text(part + "figcaption span");
  };
  found.width = [document.documentElement.scrollWidth, innerWidth];
  found.stops = Array.from({ length: Number(slider.max) + 1 }, (_, i) => move(i));
  const grid = document.querySelector(part + ".pane svg");
  found.cells = ["dropped", "kept"].map((c) => grid.querySelector("path." + c).getAttribute("d").split("M").length - 1);
  found.hosts = all(part + ".pane:first-child path.host").length;
  const budget = all(part + "select")[1];
  budget.value = "";
  budget.dispatchEvent(new Event("change"));
  found.panes = text(part + ".pane figcaption a");
  document.querySelector("#kinds-0 a.n").click();
  found.dialog = [document.querySelector("#shown").open, document.querySelector("#shown-text").textContent];
  document.querySelector("#shown").close();
  const shown = () => all("#cases-0 .card").filter((card) => !card.hidden).length;
  const select = document.querySelector("#cases-0 select");
  found.cards = [shown()];
  select.value = [...select.options].find((o) => o.textContent.startsWith("resolution")).value;
  select.dispatchEvent(new Event("change"));
  found.cards.push(shown());
  const [a, b] = ["pair-a", "pair-b"].map((id) => document.getElementById(id));
  a.value = [...a.options].find((o) => o.textContent === "uncompressed").value;
  b.value = [...b.options].find((o) => o.textContent === "resolution at T_eq 50%").value;
  b.dispatchEvent(new Event("change"));
  found.pair = document.querySelector("#pair-found p").textContent;
  found.images = all("img").length;
  parent.postMessage(JSON.stringify(found), "*");
});
"""
FRAME = """<!doctype html><body style="margin:0">
<iframe style="border:0;width:{width}px;height:1500px" srcdoc="{page}"></iframe>
<script>addEventListener("message", (e) => {{
  const found = document.createElement("pre");
  found.id = "found";
  found.textContent = e.data;
  document.body.append(found);
}});</script></body>"""


def chromium(*options):
    always = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000"]
    return subprocess.run([CHROMIUM, *always, *options], capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def text(comparison):
    return page([comparison])


@pytest.fixture(scope="module", params=[390, 1280])
def found(request, text, tmp_path_factory):
    """What the page looks like from inside, at the width of a phone and of a desktop."""
    checked = text.replace("<script type", f"<script>{CHECKS}</script><script type", 1)
    frame = tmp_path_factory.mktemp("browser") / "frame.html"
    frame.write_text(FRAME.format(width=request.param, page=html.escape(checked)), encoding="utf-8")
    dom = chromium("--dump-dom", "--window-size=1400,1600", f"file://{frame}")
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.S)[1]))


def test_it_fits_and_has_no_errors(found):
    assert found["errors"] == []
    assert found["width"][0] == found["width"][1]
    assert found["images"] == 1, "what a question says does not become an image"


def test_the_slider_moves_through_the_sites(found):
    assert found["stops"] == [["all 12 tokens"], ["8 of 12 after projector"], ["3 of 12 after layer 3"]]
    # of the first grid, at the end: 4 is merged into 2; 7 is there; 0 took 1 in and was dropped; 3, 5 and 6 were too
    assert found["cells"] == [5, 1] and found["hosts"] == 2
    assert found["panes"] == [f"fastv at {level}" for level in LEVELS]


def test_a_number_shows_its_recipe_and_cases_can_be_chosen(found):
    opened, recipe = found["dialog"]
    assert opened and recipe.startswith("# uncompressed")
    assert found["cards"][0] > 5 and found["cards"][1] == 1


def test_two_methods_are_compared_on_the_samples_they_share(found):
    assert found["pair"].startswith("Of 20 samples the first does better on 1, the second on 0: p = 1 (exact")


def test_it_is_dark_where_that_is_wanted_and_prints(text, tmp_path):
    assert HOSTILE not in text
    (tmp_path / "r.html").write_text(text, encoding="utf-8")
    light = {}
    for name, scheme in (("light", 1), ("dark", 0)):
        picture = tmp_path / f"{name}.png"
        theme = f"--blink-settings=preferredColorScheme={scheme}"
        chromium(theme, f"--screenshot={picture}", "--window-size=1280,2000", f"file://{tmp_path / 'r.html'}")
        with Image.open(picture) as image:
            assert image.size == (1280, 2000)
            light[name] = ImageStat.Stat(image.convert("L"))
    assert light["light"].median[0] > 240 and light["dark"].median[0] < 50
    assert min(light["light"].stddev[0], light["dark"].stddev[0]) > 10, "something is drawn"
    chromium(f"--print-to-pdf={tmp_path / 'r.pdf'}", f"file://{tmp_path / 'r.html'}")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF") and (tmp_path / "r.pdf").stat().st_size > 20_000
