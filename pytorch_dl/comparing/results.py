"""What a comparison leaves and prints.

results.txt, results.json   scores, differences, verdict: a function of text, settings and seeds, unless time was equal
results.png                 the same as a picture
costs.json                  tokens a second, time: what depends on the machine
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_dl.evaluation.report import aligned
from pytorch_dl.experiments.arms import Budget
from pytorch_dl.experiments.costs import Cost, cost_table, parameter_line
from pytorch_dl.experiments.plot import draw
from pytorch_dl.experiments.verdict import Findings
from pytorch_dl.files import write_file, write_json
from pytorch_dl.training.progress import duration

ALL_OF_IT = 0.95  # of a time or of tokens; the last step ends a little before or after it


@dataclass(frozen=True)
class Results:
    """What was found, what it has cost, and on what terms."""

    findings: Findings
    costs: Sequence[Cost]
    text: str
    """Which text the arms are scored on, and how."""
    why_metric: str
    budget: Budget | None
    unfinished: str | None
    """What is to be said of schedules that time cut short."""

    def lines(self) -> list[str]:
        """Scores, differences and verdict; nothing that another machine would do faster."""
        head, *rows = self.findings.table()
        table = [[*head, "parameters"]]
        table += [[*row, f"{cost.parameters:,}"] for row, cost in zip(rows, self.costs, strict=True)]
        return [
            f"{len(self.costs)} arms x {self.findings.seeds} seeds, scored on the {self.text}",
            f"{self.findings.metric} decides: {self.why_metric}",
            self.budget_line(),
            parameter_line(cost.parameters for cost in self.costs),
            *([self.unfinished] if self.unfinished else []),
            "",
            *aligned(table),
            "",
            *self.findings.lines(),
        ]

    def cost_lines(self) -> list[str]:
        """What the machine did."""
        kernels = {tuple(cost.kernels) for cost in self.costs}
        told = [f"not all were computed alike: {c.arm}: {' and '.join(c.kernels)}" for c in self.costs]
        told = told if len(kernels) > 1 or len(next(iter(kernels))) > 1 else []
        return [*aligned(cost_table(self.costs)), *told, *(line for cost in self.costs for line in cost.left_out)]

    def budget_line(self) -> str:
        """What was equal in all trainings."""
        steps = sorted(count for cost in self.costs for count in cost.steps)
        tokens = sorted(count for cost in self.costs for count in cost.tgt_tokens)
        took = f"{_span(steps)} steps, {_span(tokens)} target tokens"
        if self.budget and self.budget.kind == "time":
            least = min(seconds for cost in self.costs for seconds in cost.seconds)
            if least < ALL_OF_IT * self.budget.amount:
                return f"at most {duration(self.budget.amount)} of training each; the shortest took {duration(least)}"
            return f"equal time: {duration(self.budget.amount)} of training each ({took})"
        if self.budget and self.budget.kind == "tokens":
            about = f"about {self.budget.amount:,.0f}"
            if tokens[0] < ALL_OF_IT * self.budget.amount:
                return f"at most {about} target tokens each; some trainings ended sooner ({took})"
            return f"equal target tokens: {about} each ({took})"
        if steps[0] == steps[-1]:
            return f"equal steps: {steps[0]:,} each ({_span(tokens)} target tokens)"
        if self.budget:
            return f"at most {self.budget.amount:,.0f} steps each; some trainings ended sooner ({took})"
        return f"as long as the configuration says: {took}"

    def to_json(self) -> dict[str, Any]:
        """The same as `lines`, for programs."""
        return {
            "text": self.text,
            "why_metric": self.why_metric,
            "budget": self.budget_line(),
            "unfinished": self.unfinished,
            **self.findings.to_json(),
            "arms": [
                {"arm": c.arm, "parameters": c.parameters, "steps": c.steps, "tgt_tokens": c.tgt_tokens}
                for c in self.costs
            ],
        }


def write_results(folder: Path, results: Results) -> None:
    """Write all files."""
    write_json(folder / "results.json", results.to_json())
    write_file(folder / "results.txt", "".join(f"{line}\n" for line in results.lines()))
    write_json(folder / "costs.json", [cost.to_json() for cost in results.costs])
    draw(folder / "results.png", results.findings)


def _span(counts: Sequence[int]) -> str:
    return f"{counts[0]:,}" if counts[0] == counts[-1] else f"{counts[0]:,} to {counts[-1]:,}"
