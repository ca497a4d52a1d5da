"""A study: the folder a measuring command writes, which can be read while it is written and after a kill.

study.json holds what was asked for, on which machine; rows.jsonl one line for each finished piece of work, appended and
synced at once and never rewritten. To resume is to read the rows and leave out what is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ..errors import InvalidValue
from .machine import machine, versions

SCHEMA = 1
Row = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A folder with a study.json and a rows.jsonl."""

    folder: Path
    #: the study that `--resume` wants, where this one lies inside another
    within: Path | None = None

    @classmethod
    def create(
        cls,
        folder: str | Path,
        kind: str,
        *,
        title: str = "",
        settings: dict[str, Any] | None = None,
        recipes: dict[str, Any] | None = None,
        command: Sequence[str] | None = None,
        **more: Any,
    ) -> Study:
        """A new study; `settings` and `recipes` must suffice to go on with it.

        Raises InvalidValue where there is one already.
        """
        study = cls(Path(folder))
        if study._about.exists():
            raise InvalidValue(f"{folder} holds a study already; resume it, or name another folder")
        try:
            study.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidValue(f"cannot make the folder {folder}: {error.strerror}") from error
        about = {"schema": SCHEMA, "kind": kind, "title": title, "command": list(command or ())}
        about |= {"settings": settings or {}, "recipes": recipes or {}, **more}
        study._write(about | {"machine": machine(), "versions": versions(), "started": _now(), "finished": None})
        return study

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """One that is there; raises InvalidValue for a folder without one, or one that cannot be read."""
        study = cls(Path(folder))
        try:
            about = json.loads(study._about.read_text())
        except OSError as error:
            raise InvalidValue(f"no study in {folder}: cannot read its study.json ({error.strerror})") from error
        except ValueError as error:
            raise InvalidValue(f"{study._about} is no JSON: {error}") from error
        schema = about.get("schema") if isinstance(about, dict) else None
        if schema != SCHEMA:
            raise InvalidValue(f"{study._about} has schema {schema!r}, and this version reads {SCHEMA}")
        return study

    @classmethod
    def resume(cls, folder: str | Path, kind: str) -> Study:
        """One to go on with: of this kind, and made with the versions that are installed here.

        Raises InvalidValue otherwise: numbers of two versions do not belong in one table.
        """
        study = cls.open(folder)
        about = study.about
        if about["kind"] != kind:
            raise InvalidValue(f"{folder} is a study of {about['kind']!r}; resume it with foveate {about['kind']}")
        here = versions()
        for name, then in about["versions"].items():
            if here.get(name) != then:
                raise InvalidValue(
                    f"{folder} was begun with {name} {then}, and here is {here.get(name)}; begin a new study"
                )
        study.update(resumed=[*about.get("resumed", []), _now()])
        return study

    @staticmethod
    def default_folder(kind: str) -> Path:
        """studies/KIND-TIME, with a number behind it where that is taken."""
        base = Path("studies") / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"
        folder, n = base, 2
        while folder.exists():
            folder, n = base.with_name(f"{base.name}-{n}"), n + 1
        return folder

    @property
    def about(self) -> dict[str, Any]:
        """What study.json says now."""
        content: dict[str, Any] = json.loads(self._about.read_text())
        return content

    def update(self, **changes: Any) -> None:
        """Change fields of study.json; at every moment the old file or the new one is there."""
        self._write(self.about | changes)

    def finish(self) -> None:
        """Note that everything planned is done."""
        self.update(finished=_now())

    def append(self, *rows: Row) -> None:
        """Add rows and wait until they are on the disk; several processes may do so at once.

        Raises OSError that says where the finished rows are when they cannot be written.
        """
        lines = "".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows).encode()
        try:
            with open(self._rows, "a+b") as file, _locked(file):
                _drop_torn_line(file)
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot write {self._rows}: {error.strerror}; what was finished can be read there; make room and go "
                f"on with --resume {self.within or self.folder}",
            ) from error

    def rows(self) -> list[Row]:
        """All finished rows. A last line that a kill or a full disk cut off is left out: its work was not finished.

        Raises InvalidValue for any other line that is no row.
        """
        if not self._rows.exists():
            return []
        *lines, _torn = self._rows.read_bytes().split(b"\n")
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(_row(line))
            except ValueError as error:
                raise InvalidValue(f"{self._rows}, line {number} is no row: {error}") from error
        return rows

    @property
    def _about(self) -> Path:
        return self.folder / "study.json"

    @property
    def _rows(self) -> Path:
        return self.folder / "rows.jsonl"

    def _write(self, about: dict[str, Any]) -> None:
        new = self._about.with_suffix(".new")
        with open(new, "w") as file:
            json.dump(about, file, indent=1, allow_nan=False, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._about)


def _row(line: bytes) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object")
    return row


def _drop_torn_line(file: IO[bytes]) -> None:
    """Cut off what follows the last line end: a writer that still lives would hold the lock."""
    end = file.seek(0, os.SEEK_END)
    whole, block = end, 4096
    while whole > 0:
        start = max(0, whole - block)
        file.seek(start)
        newline = file.read(whole - start).rfind(b"\n")
        if newline >= 0:
            whole = start + newline + 1
            break
        whole = start
    if whole < end:
        file.truncate(whole)


@contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows; one process at a time there
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)  # closing the file lets go
    yield


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
