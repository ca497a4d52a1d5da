"""How results look in a terminal: bars, ratios, tables."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console
from rich.table import Table

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

WIDTH = 32


def busy(what: str) -> AbstractContextManager[object]:
    """A spinner on stderr while something takes its time; nothing where stderr is no terminal."""
    return err.status(what) if err.is_terminal else nullcontext()


def bars(per_layer: Sequence[int], whole: int) -> Table:
    """A small bar for each layer; runs of equal layers share one."""
    table = Table.grid(padding=(0, 1))
    start = 0
    for i in range(1, len(per_layer) + 1):
        if i == len(per_layer) or per_layer[i] != per_layer[start]:
            n = per_layer[start]
            full = round(WIDTH * n / max(1, whole))
            name = f"layer {start}" if i - start == 1 else f"layers {start}-{i - 1}"
            bar = "█" * full + "[dim]" + "·" * (WIDTH - full) + "[/dim]"
            table.add_row(f"[dim]{name}[/dim]", bar, str(n))
            start = i
    return table


def ratio(before: float, after: float) -> str:
    """How many times less, as people say it."""
    if not (before and after):
        return "-"
    return f"{before / after:.2f}x less" if before >= after else f"{after / before:.2f}x more"


def size(n: int) -> str:
    """Bytes for people."""
    value = float(n)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
