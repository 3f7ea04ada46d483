"""What the commands `check`, `estimate`, `verify`, `replay`, `report` and `doctor` print."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pytorch_dl.config import Config
from pytorch_dl.doctor.checkup import examine
from pytorch_dl.errors import CheckpointError, ResourceError, visible
from pytorch_dl.estimation.estimate import estimated
from pytorch_dl.estimation.table import lines_of
from pytorch_dl.replaying import changed_environment, replay, replay_failure
from pytorch_dl.reporting.page import write_page
from pytorch_dl.run import check_texts, refuse_errors
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.verifying import verify


def print_check(config: Config, *, as_json: bool) -> None:
    """Print the check's report; errors in the text end with the exit code of faulty data."""
    report, _ = check_texts(config, _say)
    print(json.dumps(report.to_json(), ensure_ascii=False, indent=2) if as_json else "\n".join(report.lines()))
    refuse_errors(report)


def print_estimate(config: Config, *, seconds: float, run: bool, as_json: bool) -> None:
    """Print what a training will take."""
    found = estimated(config, seconds=seconds, run=run, say=_say)
    print(json.dumps(found.to_json(), ensure_ascii=False, indent=2) if as_json else "\n".join(lines_of(found)))


def print_verified(run: Path) -> None:
    """Print each part of a run folder as it was found; damaged ones end with the exit code of checkpoints."""
    damaged = []
    for part, problem, outside in verify(run):
        if outside:
            print(f"outside  {part}: {visible(str(outside))} was not looked at")
            continue
        print(f"{'damaged' if problem else 'whole':8} {part}" + (f": {problem}" if problem else ""))
        damaged += [part] if problem else []
    if damaged:
        raise CheckpointError(
            f"damaged: {', '.join(damaged)}",
            where=str(run),
            fix=f"`pytorch-dl resume {run}` goes on from the newest whole checkpoint and makes token stores anew",
        )


def print_replayed(run: Path, step: int | None) -> None:
    """Print what came of recomputing; other bits end with the exit code of checkpoints."""
    reasons = "; ".join(changed_environment(run))  # before the run's own settings take effect
    found = replay(run, step, say=_say)
    what = f"{found.lines} lines of the record and {found.files} files of the checkpoint"
    if not found.different:
        print(f"steps {found.start + 1} to {found.step} recomputed: {what} have the same bits")
        return
    for name in found.different:
        print(f"differs: {name}")
    raise CheckpointError(
        f"steps {found.start + 1} to {found.step} recomputed: of {what}, {len(found.different)} differ",
        where=str(run),
        fix=f"look at what has changed since the run began: {reasons or 'nothing that is known'}",
    )


def print_replayed_failure(run: Path) -> None:
    """Print where the numbers came from that ended a run, and whether they come again."""
    before, now, pairs = replay_failure(run)
    print(f"step {before.step}, when it ended the run: not finite {before}")
    print(f"step {before.step}, computed again: {f'not finite {now}' if now else 'all is finite'}")
    for pair, src, tgt in pairs:
        print(f"pair {pair}: {src} -> {tgt}")


def print_page(runs: Sequence[Path], out: Path | None, *, evaluations: Sequence[Path], with_attention: bool) -> None:
    """Write the page of the runs and print where it is; that of one run lies in its folder unless told otherwise."""
    place = out or (RunFolder(runs[0]).page if len(runs) == 1 else Path("report.html"))
    write_page(runs, place, evaluations=evaluations, with_attention=with_attention)
    print(place)


def print_checkup(folder: Path, *, kills: int) -> None:
    """Print what was examined as it is found; what must not be ends with the exit code of resources."""
    bad = []
    for what, seen, fine in examine(folder, kills=kills):
        print(f"{'' if fine is None else 'good' if fine else 'BAD':4}  {what}: {seen}", flush=True)
        bad += [what] if fine is False else []
    if bad:
        raise ResourceError(
            f"not fine: {', '.join(bad)}", where=str(folder), fix="keep runs on another disk, and tell us what you saw"
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr)
