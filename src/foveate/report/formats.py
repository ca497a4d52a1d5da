"""Numbers for people."""

from __future__ import annotations


def short(value: float | None, digits: int = 3) -> str:
    """With so many digits that count, and no more than a thousand before the thousands' comma."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{float(f'{value:.{digits}g}'):.10g}"


def size(value: float | None) -> str:
    """Bytes."""
    return scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")), "B")


def flops(value: float | None) -> str:
    """FLOPs."""
    return scaled(value, ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")), "")


def scaled(value: float | None, units: tuple[tuple[float, str], ...], smallest: str) -> str:
    """In the largest unit of which there is one at least."""
    if value is None:
        return "–"
    scale, unit = next((pair for pair in units if abs(value) >= pair[0]), (1.0, smallest))
    return f"{short(value / scale)} {unit}".rstrip()


def share(value: float | None) -> str:
    """A fraction with three decimals."""
    return "–" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def times(value: float | None) -> str:
    """A ratio."""
    return "–" if value is None else f"{value:.2f}×"
