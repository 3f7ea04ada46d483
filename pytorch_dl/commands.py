"""What the command `check` prints."""

import json
import sys

from pytorch_dl.config import Config
from pytorch_dl.run import check_texts, refuse_errors


def print_check(config: Config, *, as_json: bool) -> None:
    """Print the check's report; errors in the text end with the exit code of faulty data."""
    report, _ = check_texts(config, _say)
    print(json.dumps(report.to_json(), ensure_ascii=False, indent=2) if as_json else "\n".join(report.lines()))
    refuse_errors(report)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
