"""The page: studies in, one HTML file out. What can be moved or chosen is drawn from the data block inside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..errors import InvalidValue
from . import formats
from .entry import Entry, measured
from .figures import Mark, layers, marks_of, score_against
from .source import Source

HERE = Path(__file__).parent
#: costs a score is drawn against, and what the axis says
COSTS = {
    "t_eq": "T_eq, visual tokens a layer",
    "prefill_ms": "prefill, ms",
    "ttft_ms": "time to the first token, ms",
    "tflops": "prefill, computed TFLOPs",
}
TITLES = {
    "accuracy": "accuracy", "next_token": "same next token", "agreement": "same answer",
    "retention": "accuracy with / without",
}  # fmt: skip
#: columns of the tables: field, heading, format
RANKED = {
    "score": ("", "share"), "change": ("change", "signed"), "to_random": ("to random", "signed"),
    "exact": ("same answer", "share"), "kl_nats": ("KL, nats a token", "short"), "t_eq": ("T_eq", "short"),
    "ttft_ms": ("first token, ms", "short"), "sooner": ("sooner", "times"),
}  # fmt: skip
COSTED = {
    "visual_tokens": ("visual tokens", "short"), "t_eq": ("T_eq", "short"), "vision_ms": ("vision, ms", "short"),
    "selection_ms": ("selection, ms", "short"), "prefill_ms": ("prefill, ms", "short"),
    "ttft_ms": ("first token, ms", "short"), "decode_ms_per_token": ("+1 token, ms", "short"),
    "total_ms": ("whole answer, ms", "short"), "tokens_per_s": ("tokens/s", "short"), "kv_bytes": ("KV cache", "size"),
    "peak_memory_bytes": ("peak memory", "size"), "prefill_flops": ("FLOPs, counted", "flops"),
    "prefill_flops_computed": ("FLOPs, computed", "flops"), "lm_flops": ("FLOPs, computed", "flops"),
}  # fmt: skip
TRIED = {
    "cost": ("cost", "short"), "agreement": ("agreement", "share"), "accuracy": ("accuracy", "share"),
    "retention": ("retention", "share"), "t_eq": ("T_eq", "short"), "prefill_ms": ("prefill, ms", "short"),
    "tflops": ("TFLOPs", "short"),
}  # fmt: skip
PARTS = {"vision": "vision", "selection": "selection", "prefill": "prefill", "decode": "decode and the rest"}


def write_report(path: str | Path, folders: Sequence[str | Path]) -> None:
    """Write the page of these studies.

    Raises InvalidValue for a folder without one, or a path that cannot be written.
    """
    text = page(folders)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidValue(f"cannot write {path}: {error.strerror}") from error


def page(folders: Sequence[str | Path]) -> str:
    """The page as text."""
    if not folders:
        raise InvalidValue("a report needs a study; name its folder")
    sources: list[Source] = []
    first = 1
    for number, folder in enumerate(folders):
        sources.append(Source.of(folder, number, first))
        first += len(sources[-1].entries) + len(sources[-1].trials)
    views = [View(source) for source in sources]
    recipes = {n: recipe for source in sources for n, recipe in source.recipes().items()}
    return _environment().get_template("page.html").render(
        views=views, recipes=recipes, data=_json({"studies": [view.data() for view in views]}),
        css=_inside("page.css"), js=_inside("page.js"), part_titles=PARTS,
        paired=[v for v in views if v.entries],
    )  # fmt: skip


class View:
    """What the template asks of a study."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.marks: dict[str, Mark] = marks_of(e.method for e in (*source.entries, *source.trials))
        self.score = TITLES.get(source.judge or "", "score")
        self.cases, self.cases_total = source.cases()
        self.overlays = source.overlays()
        #: what is compared in figures and tables; of a search only its trials are
        self.entries = source.entries if len(source.entries) > 1 else []

    @cached_property
    def plots(self) -> list[tuple[str, Markup, list[Entry]]]:
        """Score against each cost: what the axis says, the figure, who is on the front."""
        found = []
        some = self.source.compared
        for cost, title in measured(some, COSTS).items():
            if len([e for e in some if cost in e.numbers]) > 1:
                best = self.source.front(cost)
                found.append((title, score_against(cost, title, some, best, self.marks, self.score), best))
        return found

    @cached_property
    def by_budget(self) -> list[tuple[str | None, list[Entry]]]:
        """Entries under each budget, the highest score first."""
        groups: dict[str | None, list[Entry]] = {}
        for entry in self.entries:
            groups.setdefault(entry.budget, []).append(entry)
        order = sorted(groups.items(), key=lambda item: item[0] is not None)
        return [(b, sorted(some, key=lambda e: -(e.get("score") or 0.0))) for b, some in order]

    def columns(self, which: dict[str, tuple[str, str]], entries: Sequence[Entry]) -> list[tuple[str, str, str]]:
        """Field, heading and format of the columns that have a number."""
        names = measured(entries, {name: heading for name, (heading, _) in which.items()})
        return [(name, heading or self.score, which[name][1]) for name, heading in names.items()]

    @cached_property
    def ranked(self) -> list[tuple[str, str, str]]:
        """Columns of the table of scores."""
        return self.columns(RANKED, self.entries)

    @cached_property
    def costed(self) -> list[tuple[str, str, str]]:
        """Columns of the table of costs."""
        return self.columns(COSTED, self.entries)

    @property
    def tried(self) -> list[tuple[str, str, str]]:
        """Columns of the table of trials."""
        return self.columns(TRIED, self.source.trials)

    @cached_property
    def parts(self) -> dict[int, list[tuple[str, float]]]:
        """Milliseconds of each part of an answer, by entry."""
        return {e.number: list(_parts(e)) for e in self.entries if "total_ms" in e.numbers}

    @property
    def shown_parts(self) -> dict[str, str]:
        """Names of the parts that take any time, with their titles."""
        seen = {part for parts in self.parts.values() for part, ms in parts if ms}
        return {part: title for part, title in PARTS.items() if part in seen}

    @property
    def longest(self) -> float:
        """The longest of them, in all."""
        return max((sum(ms for _, ms in parts) for parts in self.parts.values()), default=1.0)

    @cached_property
    def layered(self) -> list[tuple[Entry, Markup]]:
        """Tokens per layer of each entry, as a small figure."""
        some = [e for e in self.entries if e.per_layer]
        plain = max((e.get("visual_tokens") or max(e.per_layer) for e in some), default=0.0)
        return [(e, layers(e, plain, self.marks[e.method])) for e in some]

    @cached_property
    def kinds(self) -> list[str]:
        """Kinds of question."""
        return sorted({kind for e in self.entries for kind in e.kinds})

    def heat(self, entry: Entry, kind: str) -> tuple[str, int]:
        """Whether a kind of question is worse or better than without compression, and how much, 0 to 100."""
        plain = self.source.plain
        if plain is None or plain is entry or kind not in plain.kinds or kind not in entry.kinds:
            return "same", 0
        change = entry.kinds[kind].value - plain.kinds[kind].value
        return ("loss" if change < 0 else "gain"), min(100, round(100 * abs(change)))

    @property
    def results(self) -> list[str]:
        """What the study found, in sentences."""
        return list(_sentences(self.source))

    @property
    def judged(self) -> int:
        """How many entries were timed beside the uncompressed model."""
        return sum(e.verdict is not None for e in self.source.entries)

    @property
    def verdicts(self) -> list[str]:
        """Where a method does not pay, in sentences."""
        entries = [e for e in self.source.entries if e.verdict and not e.verdict.startswith("pays")]
        return [f"{e.name} {e.verdict}." for e in entries]

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """Metrics of lmms-eval's tasks."""
        found: list[dict[str, Any]] = self.source.about.get("results", {}).get("tasks", [])
        return found

    @property
    def record(self) -> list[tuple[str, str]]:
        """Machine, versions and settings, as they were written down."""
        about = self.source.about
        machine = {k: v for k, v in about["machine"].items() if v not in (None, [])}
        if "memory_bytes" in machine:
            machine["memory"] = formats.size(machine.pop("memory_bytes"))
        machine["gpus"] = ", ".join(f"{g['name']} ({formats.size(g['memory_bytes'])})" for g in machine.get("gpus", ()))
        when = {
            "started": about["started"],
            "finished": about["finished"] or "not yet",
            "study": self.source.folder.name,
        }
        told = {"command": shlex.join(about["command"]), **when, **machine, **about["versions"], **about["settings"]}
        return [(name, _plainly(value)) for name, value in told.items() if value not in (None, "", [])]

    def data(self) -> dict[str, Any]:
        """What the page draws from."""
        samples = sorted({s for e in self.source.entries for s in e.scores})
        columns = {name: (title, how) for name, title, how in (*self.ranked, *self.costed)}
        return {
            "entries": {e.number: self._entry(e, samples) for e in self.source.entries},
            "overlays": self.overlays,
            "columns": [[name, *rest] for name, rest in columns.items()],
        }

    def _entry(self, e: Entry, samples: Sequence[str]) -> dict[str, Any]:
        return {
            "name": e.name, "colour": self.marks[e.method].colour, "layers": e.per_layer, "study": self.source.number,
            "numbers": {name: [n.value, n.low, n.high, n.what] for name, n in e.numbers.items()},
            "scores": [e.scores.get(s) for s in samples],
        }  # fmt: skip


def _parts(entry: Entry) -> Iterator[tuple[str, float]]:
    vision, selection, prefill = (entry.get(f"{name}_ms") or 0.0 for name in ("vision", "selection", "prefill"))
    yield "vision", vision
    if "selection_ms" in entry.numbers:
        yield "selection", selection
    yield "prefill", max(0.0, prefill - selection)
    yield "decode", max(0.0, entry.numbers["total_ms"].value - vision - prefill)


def _sentences(source: Source) -> Iterator[str]:
    results = source.about.get("results") or {}
    if "held_out" in results:
        target, verdict = source.about["settings"]["target"], results["verdict"]
        yield (
            f"{results['method']} costs least of those that hold {target} in the search; on the questions held out "
            f"the target is {verdict}: {results['reached']:.3f}."
        )
    found = results.get("held_out", results)
    if "drop" in found and "p_value" in found:
        yield (
            f"Accuracy drops by {_span(found['drop'])}: {found['lost']} lost, {found['gained']} gained, "
            f"p = {found['p_value']:.2g} (McNemar, exact)."
        )
        yield f"The same answer in {_span(found['agreement'])} of {found['samples']} samples."
        yield f"Prefill {_span(found['speedup'], 2)} times as fast, the whole answer {_span(found['end_to_end'], 2)}."


def _span(value: dict[str, Any], digits: int = 3) -> str:
    mean = f"{value['mean']:.{digits}f}"
    return mean if value["low"] is None else f"{mean} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def _plainly(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {n: getattr(formats, n) for n in ("short", "size", "flops", "share", "signed", "times")}
    environment.globals["format"] = lambda value, how: getattr(formats, how)(value)
    return environment


def _inside(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))


def _json(content: Any) -> Markup:
    """As the text of a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
