"""What each optimisation brings and costs, and where a step's time goes: Markdown tables, made from result files."""

import statistics
from typing import Any

from benchmark.readme import AGAIN, recomputed, result, rounded
from benchmark.rungs.plot import median_ratio

WITHOUT, WITH = "whole without ", "whole with "
Rung = dict[str, Any]


def ladder() -> list[str]:
    """The rungs from the plain Transformer to the whole, each with all those above it."""
    rungs = [rung for rung in _rungs() if not rung["name"].startswith((WITHOUT, WITH))]
    lines = ["| switched on, one after another | tokens a second | × plain | activations, MB |", "|---|---:|---:|---:|"]
    for rung in rungs:
        speed = rounded(statistics.median(rung["tokens_per_s"]))
        lines.append(f"| {rung['name']} | {speed} | {_ratio(rung, rungs[0]):.1f} | {_memory(rung)} |")
    return lines


def taken_away() -> list[str]:
    """What is lost without each, from the largest loss."""
    whole = _whole()
    lines = ["| the whole without | speed that is lost | activations, MB |", "|---|---:|---:|"]
    lines.append(f"| nothing | | {_memory(whole)} |")
    without = [rung for rung in _rungs() if rung["name"].startswith(WITHOUT)]
    for rung in sorted(without, key=lambda rung: _ratio(rung, whole)):
        lost = 1 - _ratio(rung, whole)
        shown = f"{lost:.0%}" if lost > 0 else "none"
        lines.append(f"| {rung['name'].removeprefix(WITHOUT)} | {shown} | {_memory(rung)} |")
    return lines


def variations() -> list[str]:
    """Other parts in the whole."""
    whole = _whole()
    lines = ["| the whole with | speed, × the whole | activations, MB |", "|---|---:|---:|"]
    return lines + [
        f"| {rung['name'].removeprefix(WITH)} | {_ratio(rung, whole):.2f} | {_memory(rung)} |"
        for rung in _rungs()
        if rung["name"].startswith(WITH)
    ]


def again() -> list[str]:
    """What it costs and saves to compute activations again, at both sizes."""
    lines = [
        "| computed again | size | time, × ours | activations, MB | × the first trainer's |",
        "|---|---|---:|---:|---:|",
    ]
    for name, setting in AGAIN.items():
        for size in ("T", "B"):
            found = recomputed(name, size)
            cells = f"{found['time']:.2f} | {found['activations_mb']:,.0f} | {found['share']:.3f}"
            lines.append(f"| `{setting}` | {size} | {cells} |")
    return lines


def step_lines() -> list[str]:
    """Where a step's time goes."""
    lines = ["| part of a step, d_model 512, 6+6 layers | calls | ms | share |", "|---|---:|---:|---:|"]
    found = result("products-B")["lines"]
    whole = found["step"]["ms"]
    return lines + [
        f"| {name} | {line['calls']:,.0f} | {line['ms']:,.1f} | {line['ms'] / whole:.1%} |"
        for name, line in found.items()
    ]


def _rungs() -> list[Rung]:
    found: list[Rung] = result("ladder")["rungs"]
    return found


def _whole() -> Rung:
    """All that is switched on: the last one of the ladder itself."""
    return next(rung for rung in reversed(_rungs()) if rung["name"].startswith("+"))


def _ratio(rung: Rung, other: Rung) -> float:
    return median_ratio(rung["tokens_per_s"], other["tokens_per_s"])


def _memory(rung: Rung) -> str:
    return f"{rung['activations_mb']:,.0f}"
