"""Write the table of docs/reliability.md from its result file: `python scripts/reliability_table.py`."""

import json
from pathlib import Path

from pytorch_dl.files import write_file

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULT = ROOT / "docs" / "reliability.md", ROOT / "benchmark" / "results" / "reliability.json"
BEGIN, END = "<!-- begin of cases -->", "<!-- end of cases -->"


def main() -> None:
    """Replace what lies between the marks."""
    text = PAGE.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    write_file(PAGE, "\n".join([before, *table(json.loads(RESULT.read_bytes())), after]))


def table(found: dict[str, dict[str, object]]) -> list[str]:
    """A row for each case, in the order of groups and numbers."""
    rows = ["| case | injected | times | lost | commit |", "|---|---|---:|---|---|"]
    for name in sorted(found, key=lambda name: (name[0], int(name[1:]))):
        case = found[name]
        rows.append(f"| {name} | {case['injected']} | {case['times']:,} | {case['lost']} | {str(case['commit'])[:7]} |")
    return rows


if __name__ == "__main__":
    main()
