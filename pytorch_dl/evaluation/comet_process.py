"""COMET, run by the Python of the user's own environment: imports nothing of this package.

Called with two files: a JSON object {"model": name, "data": [{"src", "mt", "ref"}, ...]} to read, and where to write
{"scores": [...], "version": "..."}. Exit code 3: the package is not installed.
"""

import json
import sys


def main(source: str, target: str) -> int:
    """Score the lines of one file into the other."""
    with open(source, encoding="utf-8") as file:
        job = json.load(file)
    try:
        import comet
        import torch
    except ImportError as error:
        print(error, file=sys.stderr)
        return 3
    model = comet.load_from_checkpoint(comet.download_model(job["model"]))
    found = model.predict(job["data"], batch_size=8, gpus=int(torch.cuda.is_available()))
    answer = {
        "scores": [float(score) for score in found["scores"]],
        "version": getattr(comet, "__version__", "unknown"),
    }
    with open(target, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
