"""The process that fuzzes one target: `python scripts/fuzz_process.py TARGET SECONDS FOLDER PLACE`; see fuzz.py.

FOLDER/inputs holds what it goes on from, and what it found to reach new code. FOLDER/result.json is written now and
then, since an input that kills the process leaves it no time at the end. In PLACE the target writes what it reads.
"""

import hashlib
import sys
from pathlib import Path

import atheris

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout's root among the places of modules

with atheris.instrument_imports(include=["pytorch_dl", "yaml", "typer", "click", "safetensors"]):
    from scripts.fuzz_targets import TARGETS
    from scripts.fuzz_trial import Trial

MEMORY_MB = 1024
HANGS = 20  # seconds that one input may take


def main(name: str, seconds: float, folder: Path, place: Path) -> None:
    """Fuzz until the time is over."""
    with atheris.instrument_imports(include=["pytorch_dl"]):  # a command imports what it needs when it is called
        target = TARGETS[name](place)
        inputs = folder / "inputs"
        inputs.mkdir(parents=True, exist_ok=True)
        for seed in target.seeds:
            (inputs / hashlib.sha256(seed).hexdigest()).write_bytes(seed)
        limits = [f"-rss_limit_mb={MEMORY_MB}", f"-timeout={HANGS}", f"-artifact_prefix={folder}/ended-"]
        trial = Trial(atheris.instrument_func(target.feed), folder, seconds=seconds)
        atheris.Setup([sys.argv[0], str(inputs), "-verbosity=0", *limits], trial)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
