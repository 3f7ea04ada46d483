"""Write the tables of docs/reliability.md from their result files: `python scripts/reliability_table.py`."""

import html
import json
from pathlib import Path
from typing import Any

from pytorch_dl.files import write_file

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS = ROOT / "docs" / "reliability.md", ROOT / "benchmark" / "results"


def main() -> None:
    """Write the page anew."""
    write_file(PAGE, filled(PAGE.read_text()))


def filled(text: str) -> str:
    """The page with what the result files tell between the marks of each table."""
    for name, table in (("cases", cases), ("mutants", mutants), ("fuzzing", fuzzing)):
        result = RESULTS / f"{'reliability' if name == 'cases' else name}.json"
        begin, end = f"<!-- begin of {name} -->", f"<!-- end of {name} -->"
        before, after = text[: text.index(begin) + len(begin)], text[text.index(end) :]
        text = "\n".join([before, *table(json.loads(result.read_bytes())), after])
    return text


def cases(found: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each case, in the order of groups and numbers."""
    rows = ["| case | injected | times | lost | commit |", "|---|---|---:|---|---|"]
    for name in sorted(found, key=lambda name: (name[0], int(name[1:]))):
        case = found[name]
        injected, lost = (html.escape(case[key], quote=False) for key in ("injected", "lost"))
        rows.append(f"| {name} | {injected} | {case['times']:,} | {lost} | {_commit(case)} |")
    return rows


def mutants(found: dict[str, Any]) -> list[str]:
    """What was taken out, and which test noticed."""
    rows = ["| taken out | in | noticed by |", "|---|---|---|"]
    for mutant in found["mutants"].values():
        noticed = f"`{mutant['by'].rpartition('::')[2]}`" if mutant["caught"] else "**nothing**"
        rows.append(f"| {mutant['what']} | `{mutant['file'].removeprefix('pytorch_dl/')}` | {noticed} |")
    return rows


def fuzzing(found: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each target of the fuzzer."""
    rows = ["| target | minutes | inputs | memory, MB | findings | commit |", "|---|---:|---:|---:|---:|---|"]
    for name, done in found.items():
        counts = (
            f"{done['seconds'] / 60:.0f} | {done['executions']:,} | {done['memory_mb']:,} | {len(done['findings'])}"
        )
        rows.append(f"| {name} | {counts} | {_commit(done)} |")
    return rows


def _commit(result: dict[str, Any]) -> str:
    """Of what was tried; "with changes" where that was not all committed."""
    return result["commit"][:7] + " with changes" * result["uncommitted_changes"]


if __name__ == "__main__":
    main()
