"""What was measured, as text and as figures for a plot."""

from __future__ import annotations

from typing import Any

#: Stands where a fraction of the floor would: a wrong answer has none.
WRONG = "WRONG"

Rows = dict[str, dict[str, dict[str, Any]]]  # workload -> row -> what was measured


def text(rows: Rows) -> str:
    """A table for each workload: milliseconds, fractions of the floor, GiB."""
    lines = []
    for workload, measured in rows.items():
        width = max(map(len, measured))
        lines.append(f"{workload:{width}}   fwd ms  of floor  fwd+bwd ms  of floor  peak GiB  outside GiB  sent MiB")
        for row, *values in cells(measured):
            if len(values) == 1:
                lines.append(f"{row:{width}}   {values[0]}")
            else:
                lines.append(
                    "{:{}} {:>8}  {:>8}  {:>10}  {:>8}  {:>8}  {:>11}  {:>8}".format(row, width, *values).rstrip()
                )
        lines += [*notes(measured), ""]
    return "\n".join(lines).rstrip()


def notes(measured: dict[str, dict[str, Any]]) -> list[str]:
    """What stands below a workload's table: what is wrong with which row, what the floor is."""
    wrong = [f"{WRONG}: {row}: {entry['wrong']}" for row, entry in measured.items() if "wrong" in entry]
    return wrong + floor_lines(measured.get("floor", {}))


def floor_lines(entry: dict[str, Any]) -> list[str]:
    """Whose kernels the floor is, and what each takes that was measured in full."""
    if "kernels" not in entry:
        return []
    names = " and ".join(
        f"{', '.join(found)} {which}" for found, which in zip(entry["kernels"], ("fwd", "fwd+bwd"), strict=True)
    )
    each = "; ".join(f"{name} {fwd:.2f} and {both:.2f} ms" for name, (fwd, both) in entry["by_kernel"].items())
    without = [f"without {name}: {reason}" for name, reason in entry.get("without", {}).items()]
    return [f"the floor is that of {names}" + (f" (alone: {each})" if each else ""), *without]


def brief(entry: dict[str, Any]) -> str:
    """One row in a few words, as it comes in."""
    if detail := entry.get("error") or entry.get("refused"):
        return f"{'not supported: ' if 'refused' in entry else ''}{detail}"
    return f"forward {entry['forward_ms']:.2f} ms, forward and backward {entry['both_ms']:.2f} ms"


def verdict(entry: dict[str, Any]) -> str:
    """What the judge said of a row, in a few words."""
    return f"{WRONG}: {entry['wrong']}" if "wrong" in entry else f"right in {entry['judged']}"


#: What the columns of a workload's table are, the row's name first.
HEADINGS = ("", "fwd ms", "of floor", "fwd+bwd ms", "of floor", "peak GiB", "outside GiB", "sent MiB")


def cells(measured: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of a workload's table as text; of what was not measured, the name and the reason."""
    rows: list[tuple[str, ...]] = []
    for row, entry in measured.items():
        if detail := entry.get("error") or entry.get("refused"):
            rows.append((row, f"{'not supported: ' if 'refused' in entry else ''}{detail}"))
            continue
        shares = [WRONG] * 2
        if "wrong" not in entry:
            shares = [_share(measured, entry, kind) for kind in ("forward_ms", "both_ms")]
        sizes = [_size(entry, *kind) for kind in (("peak_bytes", 30), ("outside_bytes", 30), ("sent_bytes", 20))]
        rows.append((row, f"{entry['forward_ms']:.2f}", shares[0], f"{entry['both_ms']:.2f}", shares[1], *sizes))
    return rows


def fractions(rows: Rows) -> dict[str, dict[str, float]]:
    """The fraction of the floor that each target reaches on each workload, forward and backward; none where wrong."""
    return {
        workload: {
            row: share
            for row, entry in measured.items()
            if row != "floor" and "wrong" not in entry and (share := _fraction(measured, entry, "both_ms")) is not None
        }
        for workload, measured in rows.items()
    }


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
