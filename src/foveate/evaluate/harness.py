"""lmms-eval as a subprocess: its command, its log, and a check of what it wrote, for it ends with 0 when it failed."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidValue
from .finished import COUNTED, count

#: How often the finished answers are counted while it runs, in seconds.
LOOK_EVERY = 1.0


class HarnessFailed(RuntimeError):
    """lmms-eval did not do what it was asked to."""


@dataclass(frozen=True)
class Job:
    """One run of lmms-eval: a model under one method, on some tasks.

    folder     where log, results and finished answers go; a second run there asks only what is missing
    arguments  `--model_args` beside `answers`, which the folder gives
    processes, machines, machine, main   data parallel: processes on each machine, number of machines, which of them
               this is, HOST:PORT of the first; each runs the same command and sees the same folder
    """

    model: str
    tasks: tuple[str, ...]
    arguments: dict[str, Any]
    folder: Path
    device: str
    limit: int | None = None
    batch: int = 1
    include: Path | None = None
    processes: int = 1
    machines: int = 1
    machine: int = 0
    main: str | None = None

    def __post_init__(self) -> None:
        if self.machines > 1 and not self.main:
            raise InvalidValue("several machines must know the first one; give its address as HOST:PORT")
        if not 0 <= self.machine < self.machines:
            raise InvalidValue(f"machine must lie in 0..{self.machines - 1}, got {self.machine}")
        for name, value in self.arguments.items():
            if re.search(r"[,=]", str(value)):
                raise InvalidValue(
                    f"{name}={value}: lmms-eval cannot take a comma or an equals sign in a model argument"
                )

    @property
    def parallel(self) -> bool:
        """Whether more than one process takes part."""
        return self.processes * self.machines > 1

    def command(self, output: Path) -> list[str]:
        """What is run; several processes are started as accelerate does it, by torch's launcher."""
        words = {**self.arguments, "answers": self.folder / "answers"}
        options = [
            "--model", self.model, "--model_args", ",".join(f"{k}={v}" for k, v in words.items()),
            "--tasks", ",".join(self.tasks), "--batch_size", str(self.batch), "--device", self.device,
            "--output_path", str(output),
        ]  # fmt: skip
        if self.limit is not None:
            options += ["--limit", str(self.limit)]
        if self.include is not None:
            options += ["--include_path", str(self.include)]
        return [sys.executable, *self._launcher(), "-m", "lmms_eval", *options, "--log_samples"]

    def _launcher(self) -> list[str]:
        if not self.parallel:
            return []
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(self.processes)]
        if self.machines == 1:
            return [*launcher, "--standalone"]
        host, _, port = str(self.main).partition(":")
        where = ["--nnodes", str(self.machines), "--node_rank", str(self.machine), "--master_addr", host]
        return [*launcher, *where, "--master_port", port or "29500"]


@dataclass(frozen=True)
class TaskResult:
    """What lmms-eval says of a task: its metrics with their standard errors, and the number of questions."""

    task: str
    metrics: dict[str, float]
    errors: dict[str, float]
    samples: int


@dataclass(frozen=True)
class Results:
    """A checked run: results by task, rows of single questions by task, and means of what we counted."""

    tasks: tuple[TaskResult, ...]
    rows: dict[str, list[dict[str, Any]]]
    counted: dict[str, float]


def installed() -> None:
    """Raises InvalidValue where lmms-eval is not."""
    if importlib.util.find_spec("lmms_eval") is None:
        raise InvalidValue("lmms-eval is not installed; pip install 'foveate[eval]'")


def run(job: Job, answered: Callable[[int], None] = lambda n: None) -> Results | None:
    """Run lmms-eval and check what it wrote; None on any machine but the first, which alone writes results.

    Where its folder holds good results of an earlier run, those are returned. `answered` is told, about once a
    second, how many answers are finished. Raises HarnessFailed with the last error in its log when a task, a result or
    an answer is missing.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    for earlier in (job.folder / "lmms_eval").glob("*"):
        if list(earlier.glob("**/*_results.json")):
            with suppress(HarnessFailed):  # what failed then is tried again
                return check(job, earlier, job.folder)
    (job.folder / "lmms_eval").mkdir(exist_ok=True)
    output = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=job.folder / "lmms_eval"))
    log = output / "log.txt"
    environment = os.environ | {"TQDM_DISABLE": "1"} | ({"ACCELERATE_USE_CPU": "true"} if job.device == "cpu" else {})
    with open(log, "wb") as file:
        process = subprocess.Popen(job.command(output), stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                answered(count(job.folder / "answers"))
                time.sleep(LOOK_EVERY)
        finally:
            process.terminate()
            process.wait()
    answered(count(job.folder / "answers"))
    if process.returncode:
        raise HarnessFailed(f"lmms-eval ended with {process.returncode}: {_cause(log)}; its log: {log}")
    return check(job, output, log) if job.machine == 0 else None


def check(job: Job, output: Path, log: Path) -> Results:
    """What was written, or HarnessFailed: each task has metrics, all numbers, and an answer to each question."""
    found = sorted(output.glob("**/*_results.json"))
    if not found:
        raise HarnessFailed(f"lmms-eval wrote no results (and ended with 0): {_cause(log)}; its log: {log}")
    content = json.loads(found[-1].read_text())
    missing = [t for t in job.tasks if t not in content["results"] and t not in content.get("groups", {})]
    if missing:
        raise HarnessFailed(f"no results for {', '.join(missing)}; its log: {log}")
    sizes = {name: n["effective"] for name, n in content["n-samples"].items()}
    rows = {name: _rows(output, name, n) for name, n in sizes.items()}
    tasks = tuple(_task(name, metrics, sizes.get(name)) for name, metrics in content["results"].items())
    if not any(t.metrics for t in tasks):
        raise HarnessFailed(f"lmms-eval computed no metric for {', '.join(job.tasks)}; its log: {log}")
    throughput = content.get("throughput", {})  # lmms-eval writes the means of what our model counted as avg_NAME
    counted = {name: throughput[f"avg_{name}"] for name in COUNTED if f"avg_{name}" in throughput}
    return Results(tasks, rows, counted)


def _task(name: str, written: dict[str, Any], samples: int | None) -> TaskResult:
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in written.items():
        metric = key.split(",")[0]
        if isinstance(value, bool) or not isinstance(value, int | float) or "_stderr_" in metric:
            continue
        if not math.isfinite(value) and not metric.endswith("_stderr"):
            raise HarnessFailed(f"{name}: {metric} is {value}")
        (errors if metric.endswith("_stderr") else metrics)[metric.removesuffix("_stderr")] = float(value)
    if samples is not None and not samples:
        raise HarnessFailed(f"{name}: no question was asked")
    return TaskResult(name, metrics, errors, samples or 0)


def _rows(output: Path, task: str, expected: int) -> list[dict[str, Any]]:
    found = sorted(output.glob(f"**/*_samples_{task}.jsonl"))
    rows = [json.loads(line) for path in found for line in path.read_text().splitlines()]
    if len(rows) != expected:
        raise HarnessFailed(f"{task}: {expected} questions, but {len(rows)} answers were written")
    if not any(_text(row) for row in rows):
        raise HarnessFailed(f"{task}: every answer is empty")
    return rows


def _text(row: dict[str, Any]) -> str:
    answer = row.get("filtered_resps", row.get("resps", ""))
    while isinstance(answer, list):
        answer = answer[0] if answer else ""
    return str(answer).strip()


def _cause(log: Path) -> str:
    """The last line of a log that tells of an error, without colours."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace")).splitlines()
    told = [
        line.strip()
        for line in lines
        if re.search(r"^\w*(Error|Exception|Failed)\b|Error during evaluation", line.strip())
    ]
    return (told or [line for line in lines if line.strip()] or ["it said nothing"])[-1][:500]


def per_question(rows: Sequence[dict[str, Any]], metric: str) -> dict[str, float]:
    """A metric's value for each question by its id, where lmms-eval wrote plain numbers."""
    return {
        str(row["doc_id"]): float(row[metric])
        for row in rows
        if isinstance(row.get(metric), int | float) and not isinstance(row.get(metric), str)
    }
