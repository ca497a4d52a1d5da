"""The benchmarks that papers on visual tokens report, by the names their tasks have in lmms-eval."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as papers call it, its task in lmms-eval, and the split that the tables use."""

    name: str
    task: str
    medium: Literal["image", "video"]
    about: str


#: The tables of AIM (arXiv 2412.03248), and LongVideoBench. Task names are those of lmms-eval 0.7.
BENCHMARKS = (
    Benchmark("videomme", "videomme", "video", "Video-MME without subtitles, 2,700 multiple-choice questions"),
    Benchmark("videomme_w_subtitle", "videomme_w_subtitle", "video", "Video-MME with subtitles"),
    Benchmark("mlvu", "mlvu_dev", "video", "MLVU dev, multiple choice"),
    Benchmark("longvideobench", "longvideobench_val_v", "video", "LongVideoBench validation, multiple choice"),
    Benchmark("mvbench", "mvbench", "video", "MVBench, 20 tasks of 200 multiple-choice questions"),
    Benchmark("egoschema", "egoschema_subset", "video", "EgoSchema, the 500 questions with public answers"),
    Benchmark("egoschema_full", "egoschema", "video", "EgoSchema, all questions; writes a file for its server"),
    Benchmark("nextqa", "nextqa_mc_test", "video", "NExT-QA test, multiple choice"),
    Benchmark("perceptiontest", "perceptiontest_val_mc", "video", "Perception Test validation, multiple choice"),
    Benchmark("gqa", "gqa", "image", "GQA test-dev balanced"),
    Benchmark("vqav2", "vqav2_val", "image", "VQA v2 validation; papers report test-dev, vqav2_test writes its file"),
    Benchmark("mme", "mme", "image", "MME, perception and cognition scores"),
    Benchmark("textvqa", "textvqa_val", "image", "TextVQA validation"),
    Benchmark("scienceqa", "scienceqa_img", "image", "ScienceQA test, the questions with an image"),
    Benchmark("mmbench", "mmbench_en_dev", "image", "MMBench English dev; graded by a model: set lmms-eval's key"),
    Benchmark("pope", "pope", "image", "POPE, adversarial, popular and random"),
)

_TASKS = {b.name: b.task for b in BENCHMARKS}


def tasks(names: Iterable[str]) -> Iterator[str]:
    """Each name's task in lmms-eval; a name that is not in the table is taken for a task itself."""
    for name in names:
        yield _TASKS.get(name, name)


def of_medium(medium: str) -> list[str]:
    """The benchmarks of a paper's table: the plain variants for images, or for videos."""
    return [b.name for b in BENCHMARKS if b.medium == medium]
