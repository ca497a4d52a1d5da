"""A local dataset as a task folder for lmms-eval, so that its own command line can run it and must agree with ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ..errors import InvalidValue
from .dataset import Dataset, Sample
from .metrics import score


def export_task(data: Dataset, folder: Path, metric: str | None, max_new_tokens: int) -> str:
    """Write the task, unless it is there; returns its name. `lmms_eval --include_path FOLDER --tasks NAME` finds it.

    Images that are only in memory are written beside it. Answers are scored by our metrics. Raises InvalidValue for
    videos.
    """
    name = f"foveate_{data.name}"
    home = folder / name
    if (home / f"{name}.yaml").exists():  # written last
        return name
    home.mkdir(parents=True, exist_ok=True)
    rows = [_row(sample, home, metric) for sample in data.samples]
    questions = home / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "utils.py").write_text(
        '"""Made by foveate: what lmms-eval asks of a task."""\n\n'
        f"from {__name__} import doc_to_messages, doc_to_text, doc_to_visual, process_results  # noqa: F401\n"
    )
    (home / f"{name}.yaml").write_text(_config(name, questions, max_new_tokens))
    return name


def _row(sample: Sample, home: Path, metric: str | None) -> dict[str, Any]:
    if sample.video is not None:
        raise InvalidValue(f"{sample.id}: videos of a local dataset are not exported; run it without lmms-eval")
    paths = []
    for i, image in enumerate(sample.images):
        if isinstance(image, Image.Image):
            path = home / "images" / f"{sample.id}-{i}.png"
            path.parent.mkdir(exist_ok=True)
            image.save(path)
            paths.append(str(path.resolve()))
        else:
            paths.append(str(image.resolve()))
    return {
        "id": sample.id, "images": paths, "prompt": sample.prompt, "answers": list(sample.answers),
        "choices": list(sample.choices), "metric": metric or "",
    }  # fmt: skip


def _config(name: str, questions: Path, max_new_tokens: int) -> str:
    functions = ("doc_to_visual", "doc_to_text", "doc_to_messages", "process_results")
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(questions.resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_target": "{{answers[0]}}",
        "generation_kwargs": {"max_new_tokens": max_new_tokens, "temperature": 0, "do_sample": False},
        "metric_list": [{"metric": "score", "aggregation": "mean", "higher_is_better": True}],
    }
    text: str = yaml.safe_dump(config, sort_keys=False)
    return text + "".join(f"{f}: !function utils.{f}\n" for f in functions)


# ── what the task calls ──────────────────────────────────────────────────────────────────────────────────────────


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The images of a question."""
    from ..loading import open_image

    return [open_image(path) for path in doc["images"]]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    """What is asked."""
    return str(doc["prompt"])


def doc_to_messages(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[dict[str, Any]]:
    """One turn, images first, as ours."""
    content = [{"type": "image", "url": image} for image in doc_to_visual(doc)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": doc_to_text(doc)}]}]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The score of an answer."""
    return {"score": score(doc["metric"] or None, results[0], doc["answers"], doc["choices"])}
