"""The complexity measure on real pictures: what adaptive budgets follow (`foveate.ops.complexity`).

Each shipped photograph, a plain card, and noise go through the embedded model's vision tower; the measure is taken of
the visual tokens that would enter the language model, and beside it the keep that Adaptive(Complexity(), 0.1, 0.4)
gives. Also of halves of one photograph next to plain paper, which must lie between the two.

    python benchmarks/complexity.py [--model PATH] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import foveate
from foveate.ask import prepare
from foveate.pieces import Adaptive, Complexity
from foveate.tokens import Grid, VisualTokens

PHOTOS = Path(foveate.__file__).parent / "assets" / "photos"


def pictures() -> dict[str, Image.Image]:
    """Simple to rich: a plain card, one edge, photographs, half photographs, noise."""
    found = {"plain card": Image.new("RGB", (336, 336), (120, 140, 160))}
    edge = Image.new("RGB", (336, 336), (230, 230, 225))
    edge.paste((30, 60, 120), (168, 0, 336, 336))
    found["one edge"] = edge
    for path in sorted(PHOTOS.glob("*.jpg")):
        with Image.open(path) as photo:
            found[path.stem] = photo.convert("RGB").resize((336, 336))
    half = found["plain card"].copy()
    half.paste(found["chelsea"].crop((0, 0, 168, 336)), (0, 0))
    found["half of chelsea, half plain"] = half
    noise = np.random.default_rng(0).integers(0, 256, (336, 336, 3), dtype=np.uint8)
    found["noise"] = Image.fromarray(noise)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--json")
    options = parser.parse_args()
    loaded = foveate.load(options.model)
    rule, rows = Adaptive(Complexity(), 0.1, 0.4), {}
    for name, picture in pictures().items():
        inputs = prepare(loaded, "?", [picture])
        with torch.no_grad():
            features = loaded.model.base_model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        x = features.pooler_output[0][None]
        tokens = VisualTokens.of(x, Grid(1, 1, x.shape[1]))
        rows[name] = {"complexity": rule.measure(tokens).item(), "keep": rule.keep(tokens)[0]}
    for name, row in sorted(rows.items(), key=lambda item: item[1]["complexity"]):
        print(f"{name:<30}{row['complexity']:>8.3f}{row['keep']:>8.3f}")
    print(json.dumps(rows))
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
