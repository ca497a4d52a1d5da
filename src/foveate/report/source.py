"""A study as the report reads it: entries, what has no result, what was answered otherwise, pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..measure.changes import UNCOMPRESSED, Change, changes
from ..measure.rows import Key, broken, front, missing
from ..measure.study import Row, Study
from .entry import Entry, entries_of, trials_of
from .recipes import recipe_text

MOST_CASES = 40
THUMBNAIL = 220


@dataclass(frozen=True)
class Case:
    """A sample that is answered otherwise, with a small picture of it if there is one."""

    sample: str
    question: str
    truth: str | None
    picture: str | None
    frames: int
    changes: tuple[tuple[Change, Entry], ...]

    @property
    def lost(self) -> int:
        """How many contenders at budgets get it wrong, and the uncompressed model gets it right."""
        return sum(change.loss > 0 for change, _ in self.changes)


@dataclass(frozen=True)
class Source:
    """A study, read once."""

    number: int
    folder: Path
    about: dict[str, Any]
    rows: list[Row]
    album: list[Row]
    entries: list[Entry]
    trials: list[Entry]

    @classmethod
    def of(cls, folder: str | Path, number: int, first: int) -> Source:
        """Raises InvalidValue for a folder that holds no study; entries are numbered from `first` on."""
        study = Study.open(folder)
        about = study.about
        rows = [{"budget": None, "error": None, **row} for row in study.rows()]
        entries = entries_of(rows, first)
        trials = trials_of(rows, about["settings"].get("target", ""), first + len(entries))
        return cls(number, Path(folder), about, rows, Study(study.folder / "overlays").rows(), entries, trials)

    @property
    def title(self) -> str:
        """What was done, in a few words."""
        about, model = self.about, self.about["settings"].get("model") or "the embedded model"
        methods = ", ".join(name for name in about["recipes"] if name != UNCOMPRESSED)
        return f"{about['kind']}: {about['title'] or methods}, {model}"

    @property
    def judge(self) -> str | None:
        """accuracy, next_token, or what a search had to hold; None where nothing was judged."""
        if self.trials:
            return str(self.about["settings"]["target"]).split(">=")[0].strip()
        kinds = {row["kind"] for row in self.rows}
        return "accuracy" if "accuracy" in kinds else "next_token" if "fidelity" in kinds else None

    @property
    def plain(self) -> Entry | None:
        """The model without compression."""
        return next((e for e in self.entries if e.is_plain), None)

    @property
    def samples(self) -> int:
        """How many were asked, broken ones included."""
        return len({row["sample"] for row in self.rows if row["sample"] is not None})

    @property
    def broken(self) -> dict[str, str]:
        """Samples that could not be asked under some contender or all, and why."""
        return broken(row for row in self.rows if row["kind"] != "trial")

    @property
    def missing(self) -> dict[Key, str]:
        """Contenders at budgets that have no result, and why."""
        return missing(row for row in self.rows if row["kind"] != "trial")

    @property
    def compared(self) -> list[Entry]:
        """What a plot of score against cost shows: trials that were run to the end, or all entries."""
        if self.trials:
            return [t for t in self.trials if t.state in ("complete", "holds the target") and "score" in t.numbers]
        return [e for e in self.entries if "score" in e.numbers]

    def front(self, cost: str) -> list[Entry]:
        """Those nobody beats in score at no more of a cost."""
        some = [e for e in self.compared if cost in e.numbers]
        flags = front([e.numbers[cost].value for e in some], [e.numbers["score"].value for e in some])
        return [e for e, on in zip(some, flags, strict=True) if on]

    def recipes(self) -> dict[int, tuple[Entry, str]]:
        """The recipe of each entry and trial by its number."""
        return {e.number: (e, recipe_text(e, self.about)) for e in (*self.entries, *self.trials)}

    # ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────

    def cases(self) -> tuple[list[Case], int]:
        """The worst ones, and how many there are in all."""
        by_key = {e.key: e for e in self.entries}
        questions = {r["sample"]: r for r in self.rows if r.get("question")}
        pictures = self._files()
        found = changes(self.rows)
        cases = []
        for sample, some in list(found.items())[:MOST_CASES]:
            row, files = questions.get(sample, {}), pictures.get(sample, {})
            first = next(iter(files.values()), None)
            thumbnail = None if first is None else _data_uri(first, THUMBNAIL)
            named = tuple((change, by_key[change.key]) for change in some)
            cases.append(Case(sample, str(row.get("question", "")), row.get("truth"), thumbnail, len(files), named))
        return cases, len(found)

    def overlays(self) -> list[dict[str, Any]]:
        """For each sample that was drawn: its question, its pictures, and what each entry did to its tokens."""
        files, by_key = self._files(), {e.key: e for e in self.entries}
        if self.trials:  # a search draws its winner
            by_key[self.trials[0].method, None] = self.trials[0]
        names = {row["sample"]: row["question"] for row in self.album if row["kind"] == "picture"}
        found: dict[str, dict[str, Any]] = {}
        for row in self.album:
            if row["kind"] != "overlay" or row["error"] or not row["steps"]:
                continue
            sample = row["sample"]
            if sample not in found:
                pictures = {i: _data_uri(path) for i, path in files.get(sample, {}).items()}
                found[sample] = {"sample": sample, "question": names.get(sample, ""), "pictures": pictures, "runs": []}
            entry = by_key.get((row["method"], row["budget"]))
            run = {name: row[name] for name in ("grids", "views", "steps", "tokens_per_layer")}
            run |= {"entry": None if entry is None else entry.number, "name": _named(row)}
            found[sample]["runs"].append(run)
        return list(found.values())

    def undrawn(self) -> Iterator[tuple[str, str, str]]:
        """Contenders whose overlay failed: name, sample, reason; budgets out of reach are told elsewhere."""
        for row in self.album:
            if row["kind"] == "overlay" and row["error"] and (row["method"], row["budget"]) not in self.missing:
                yield _named(row), row["sample"], row["error"]

    def _files(self) -> dict[str, dict[str, Path]]:
        folder = self.folder / "overlays"
        found: dict[str, dict[str, Path]] = {}
        for row in self.album:
            if row["kind"] == "picture":
                paths = {i: folder / name for i, name in row["files"].items()}
                found[row["sample"]] = {i: path for i, path in paths.items() if path.is_file()}
        return found


def _named(row: Row) -> str:
    return row["method"] if row["budget"] is None else f"{row['method']} at {row['budget']}"


def _data_uri(path: Path, side: int | None = None) -> str:
    content = path.read_bytes()
    if side is not None:
        with Image.open(path) as picture:
            picture.thumbnail((side, side))
            small = io.BytesIO()
            picture.save(small, "JPEG", quality=80)
            content = small.getvalue()
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
