"""The lmms-eval plugin: which of its models foveate offers compressed, and what `--model_args` may say.

    python -m lmms_eval --model foveate_qwen2_5_vl --tasks gqa \\
        --model_args pretrained=Qwen/Qwen2.5-VL-7B-Instruct,method=aim,keep=0.25

lmms-eval finds `manifests` by an entry point of the group `lmms_eval.models`; nothing of it is imported before it asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ask import uncompressed
from ..errors import InvalidValue
from ..method import Method, get_method
from ..recipe import Recipe

#: `config.model_type` of a checkpoint: the id of our model in lmms-eval
MODELS = {
    "llava": "foveate_llava_hf",
    "llava_next": "foveate_llava_hf",
    "llava_onevision": "foveate_llava_hf",
    "qwen2_5_vl": "foveate_qwen2_5_vl",
}
CLASSES = {"foveate_llava_hf": "CompressedLlavaHf", "foveate_qwen2_5_vl": "CompressedQwen25VL"}
ALIASES = {"foveate_llava_hf": ("foveate_llava_onevision",)}
#: What we understand; everything else goes on to lmms-eval's own class.
WORDS = {
    "keep": "keep",
    "merge_ratio": "merge_ratio",
    "prune_scheduler": "schedule",
    "schedule": "schedule",
    "final_prune_ratio": "final_prune_ratio",
    "importance": "importance",
    "positions": "positions",
}


def manifests() -> list[Any]:
    """What lmms-eval asks for: our models' ids and where their classes are."""
    from lmms_eval.models.registry_v2 import ModelManifest

    home = f"{__package__}.lmms_models"
    return [
        ModelManifest(model_id=name, chat_class_path=f"{home}.{cls}", aliases=ALIASES.get(name, ()))
        for name, cls in CLASSES.items()
    ]


@dataclass(frozen=True)
class Arguments:
    """What `--model_args` says: the method, the folder for finished answers, and what is lmms-eval's own business."""

    method: Method
    answers: Path | None
    theirs: dict[str, Any]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Arguments:
        """From lmms-eval's keyword arguments; without `method` and `recipe` the model runs uncompressed, but counted.

        Raises InvalidValue for a setting without a method, and whatever `get_method` refuses.
        """
        rest = dict(given)
        answers, recipe, name = (rest.pop(word, None) for word in ("answers", "recipe", "method"))
        words = {ours: rest.pop(theirs) for theirs, ours in WORDS.items() if rest.get(theirs) is not None}
        if adaptive := rest.pop("adaptive", None):
            words["adaptive"] = tuple(str(adaptive).split(":"))
            if len(words["adaptive"]) != 2:
                raise InvalidValue(f"adaptive takes LOW:HIGH, as in 0.1:0.4, got {adaptive!r}")
        if name and recipe:
            raise InvalidValue("recipe names the method; leave method out")
        if not (name or recipe):
            if words:
                raise InvalidValue(f"{' and '.join(words)} without a method; give method=NAME")
            method = uncompressed()
        else:
            method = get_method(Recipe.load(recipe).to_method() if recipe else str(name), **words)
        return cls(method, Path(answers) if answers else None, rest)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What an answer depends on: two runs that agree in it may share answers."""
        theirs = {k: str(v) for k, v in self.theirs.items() if k not in ("device", "device_map", "batch_size")}
        return {"method": self.method.card.name, "settings": Recipe.of(self.method).settings, "model": theirs}
