"""The recipe of configs/cmudict.yaml, timed from raw text: `python benchmark/cmudict.py --data cmudict`.

The word error rate is the share of words that do not get the pronunciation of the text, all phonemes and stresses
right; the phoneme error rate is the edits per 100 phonemes. The text has one pronunciation of each word, the first of
the dictionary: another one that it has as well counts as wrong. Both rates are also given without the digits that tell
the stress, which is what published figures count. Writes them with the wall time and the size of the model.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.measuring.machine import RESULTS, machine
from benchmark.measuring.recipe import compared, run_recipe
from pytorch_dl import files
from pytorch_dl.evaluation.metrics import exact_match, token_error_rate

TEXTS = {"src": "train", "val-src": "val", "test-src": "test"}


def main() -> None:
    """Parse the command line, run the recipe, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and test as .tsv.gz")
    parser.add_argument("--out", type=Path, default=RESULTS / "cmudict.json", help="the JSON file to write")
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE", help="other than the recipe's")
    given = parser.parse_args()
    where = machine()
    texts = {option: given.data.resolve() / f"{stem}.tsv.gz" for option, stem in TEXTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        figures, run = run_recipe("cmudict", texts, Path(folder), given.settings)
        _, references, answers = zip(*compared(run), strict=True)
    found = {"words": len(answers), **error_rates(answers, references), **figures}
    print(json.dumps(found))
    files.write_json(given.out, {**found, "settings": given.settings, "machine": where})


def error_rates(answers: Sequence[str], references: Sequence[str]) -> dict[str, dict[str, float]]:
    """Word and phoneme error rates in percent, of phonemes with their stress and without it."""
    found = {}
    for name, sign in (("with_stress", ""), ("without_stress", r"\d")):
        ours, theirs = ([re.sub(sign, "", text) if sign else text for text in side] for side in (answers, references))
        found[name] = {
            "word_error_rate": round(100 - exact_match(ours, theirs).value, 2),
            "phoneme_error_rate": round(token_error_rate(ours, theirs).value, 2),
        }
    return found


if __name__ == "__main__":
    main()
