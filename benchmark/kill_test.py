"""Kill a training again and again, as `pytorch-dl doctor` does, and write down what came of it.

    python benchmark/kill_test.py --kills 20

Prints one line of JSON; exit code 1 when any bit differs or more steps were lost than lie between two checkpoints.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.measuring.machine import machine
from pytorch_dl.doctor.kills import SAVE_EVERY, compare
from pytorch_dl.files import write_json


def main() -> int:
    """Parse the command line, train with and without kills, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    arguments = parser.parse_args()
    where = machine()
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), arguments.kills, random.Random(arguments.seed))
    print(json.dumps(result))
    if arguments.out:
        write_json(arguments.out, {**result, "machine": where})
    return 0 if result["equal"] and result["lost_steps_max"] <= SAVE_EVERY else 1


if __name__ == "__main__":
    raise SystemExit(main())
