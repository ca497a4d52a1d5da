"""Answers that a run of lmms-eval has finished: on the disk at once, so that a run after a kill asks only the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..measure.study import Row, Study

#: numbers of an answer whose means are given to lmms-eval, which writes them to its results
COUNTED = ("visual_tokens", "t_eq", "prefill_ms", "vision_ms")


class Finished:
    """Answers by request, in memory and in a folder, where each process has its own file and reads all."""

    def __init__(self, folder: Path | None, rank: int, fingerprint: Mapping[str, Any]) -> None:
        self.fingerprint = json.dumps(fingerprint, sort_keys=True)
        self.file = None if folder is None else Study(folder / f"rank_{rank}")
        self.known: dict[str, Row] = {} if folder is None else {row["key"]: row for row in finished_rows(folder)}

    def key(self, task: str, document: object, part: object, prompt: str, options: Mapping[str, Any]) -> str:
        """A request by its task, document, prompt and options, under this model and method."""
        parts = [self.fingerprint, task, str(document), str(part), prompt, as_text(options)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def get(self, key: str, options: Mapping[str, Any]) -> Row | None:
        """The answer to a request that need not be asked again; what is drawn at random always is."""
        drawn = bool(options.get("do_sample")) or (options.get("temperature") or 0) > 0
        return None if drawn else self.known.get(key)

    def add(self, rows: Sequence[Row]) -> None:
        """Write answers, each with its key; they are on the disk when this returns."""
        if self.file is not None:
            self.file.folder.mkdir(parents=True, exist_ok=True)
            self.file.append(*rows)


def finished_rows(folder: Path) -> Iterator[Row]:
    """The answers of all processes."""
    for path in sorted(folder.glob("rank_*")):
        yield from Study(path).rows()


def count(folder: Path) -> int:
    """How many there are, without reading them."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("rank_*/rows.jsonl"))


def as_text(options: Mapping[str, Any]) -> str:
    """Options of generation; lmms-eval's LLaVA class puts the sizes of the last images into them."""
    return json.dumps({k: v for k, v in options.items() if k != "image_sizes"}, sort_keys=True, default=str)
