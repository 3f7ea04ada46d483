"""What the command lines of ladder.py and overlay.py share, and the configuration that they name."""

import argparse
from pathlib import Path

from benchmark.measuring.machine import RESULTS
from benchmark.race.workload import configuration, find_text, text_settings
from pytorch_dl.config import Config, get_config


def parser(description: str | None, *, steps: int) -> argparse.ArgumentParser:
    """The shared options; so many steps where none are asked for."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", type=Path, help="folder with train.en and train.de; the bundled dates when left out")
    found.add_argument("--pairs-per-step", type=int, default=64)
    found.add_argument("--steps", type=int, default=steps, help="of training")
    found.add_argument("--no-compile", action="store_true")
    found.add_argument("--out", type=Path, default=RESULTS)
    found.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE")
    return found


def configured(options: argparse.Namespace) -> Config:
    """The tiny template on the text and with the settings of a command line; its rungs are what is compiled or not."""
    text = text_settings(find_text(options.data), src_suffix="en", tgt_suffix="de")
    return configuration(get_config("tiny"), text, [*options.settings, "system.compile=false"])
