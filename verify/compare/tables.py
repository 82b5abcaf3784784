"""What was measured, as text and as a plot."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

Rows = dict[str, dict[str, dict[str, Any]]]  # workload -> row -> what was measured


def text(rows: Rows) -> str:
    """A table for each workload: milliseconds, fractions of the floor, GiB."""
    lines = []
    for workload, measured in rows.items():
        width = max(map(len, measured))
        lines.append(f"{workload:{width}}   fwd ms  of floor  fwd+bwd ms  of floor  peak GiB  outside GiB  sent MiB")
        for row, entry in measured.items():
            if detail := entry.get("error") or entry.get("refused"):
                lines.append(f"{row:{width}}   {'not supported: ' if 'refused' in entry else ''}{detail}")
                continue
            shares = [_share(measured, entry, kind) for kind in ("forward_ms", "both_ms")]
            lines.append(
                f"{row:{width}} {entry['forward_ms']:8.2f}  {shares[0]:>8}  {entry['both_ms']:10.2f}  {shares[1]:>8}  "
                f"{_size(entry, 'peak_bytes', 30):>8}  {_size(entry, 'outside_bytes', 30):>11}  "
                f"{_size(entry, 'sent_bytes', 20):>8}"
            )
        lines += [*_floor(measured.get("floor", {})), ""]
    return "\n".join(lines).rstrip()


def _floor(entry: dict[str, Any]) -> list[str]:
    """Whose kernels the floor is, and what each takes that was measured in full."""
    if "kernels" not in entry:
        return []
    names = " and ".join(
        f"{', '.join(found)} {which}" for found, which in zip(entry["kernels"], ("fwd", "fwd+bwd"), strict=True)
    )
    each = "; ".join(f"{name} {fwd:.2f} and {both:.2f} ms" for name, (fwd, both) in entry["by_kernel"].items())
    return [f"the floor is that of {names}" + (f" (alone: {each})" if each else "")]


def brief(entry: dict[str, Any]) -> str:
    """One row in a few words, as it comes in."""
    if detail := entry.get("error") or entry.get("refused"):
        return f"{'not supported: ' if 'refused' in entry else ''}{detail}"
    return f"forward {entry['forward_ms']:.2f} ms, forward and backward {entry['both_ms']:.2f} ms"


_PLOTTED = "fraction of the floor, the attention kernels alone, that each reaches, forward and backward"


def plot(rows: Rows) -> str:
    """An SVG of bars: the fraction of the floor that each row reaches, forward and backward together."""
    bars, height = [f'<text x="10" y="20">{_PLOTTED}</text>'], 50
    for workload, measured in rows.items():
        bars.append(f'<text x="10" y="{height}" font-weight="bold">{escape(workload)}</text>')
        height += 20
        for row, entry in measured.items():
            share = _fraction(measured, entry, "both_ms")
            if share is None or row == "floor":
                continue
            width = round(300 * min(share, 1.2))
            bars.append(f'<rect x="330" y="{height - 12}" width="{width}" height="14" fill="#4878a8"/>')
            bars.append(f'<text x="20" y="{height}">{escape(row)}</text>')
            bars.append(f'<text x="{340 + width}" y="{height}">{share:.2f}</text>')
            height += 20
        height += 10
    size = f'width="760" height="{height}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, f"<title>{_PLOTTED}</title>", *bars, "</svg>"]) + "\n"


def _fraction(measured: dict[str, dict[str, Any]], entry: dict[str, Any], kind: str) -> float | None:
    floor = measured.get("floor", {}).get(kind)
    return floor / entry[kind] if floor and entry.get(kind) else None


def _share(measured: dict[str, dict[str, Any]], entry: dict[str, Any], kind: str) -> str:
    share = _fraction(measured, entry, kind)
    return "" if share is None else f"{share:.3f}"


def _size(entry: dict[str, Any], kind: str, power: int) -> str:
    if kind not in entry:
        return "-"
    size = entry[kind] / (1 << power)
    return f"{size:.2f}" if size >= 1 or size == 0 else f"{size:.3g}"
