"""The demo: learn to read dates as people write them in many languages, from the bundled corpus, in minutes."""

import json
import os
import sys
import time
from pathlib import Path

from pytorch_dl.config import Config
from pytorch_dl.data import dates_file
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.run import begin, finish
from pytorch_dl.scoring.names import EXACT_MATCH
from pytorch_dl.training.progress import Progress, duration
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.translating import converse
from pytorch_dl.translator import load

LINES = (
    "March 7th, 2024",
    "mardi 14 juillet 1998",
    "Donnerstag, 31. Dezember 2026",
    "3 de mayo de 1999",
    "2031年4月1日火曜日",
    "ΠΑΡΑΣΚΕΥΗ 13 ΟΚΤΩΒΡΙΟΥ 1950",
)


def demo_config() -> Config:
    """Characters in, characters out: a model of a million parameters."""
    config = Config()
    return config.update(
        model={
            "d_model": 128,
            "n_heads": 4,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "dropout": 0.0,
            "max_seq_len": 64,
        },
        data={
            "train_data_path": str(dates_file("train")),
            "val_data_path": str(dates_file("val")),
            "test_data_path": str(dates_file("test")),
            "tokenizer_name": "char",
            "vocab_size": 512,
            "max_length": 64,
            "max_tokens_per_batch": 3000,
        },
        training={"learning_rate": 3e-3, "num_epochs": 3, "label_smoothing": 0.0, "eval_decode": 100},
    )


def demonstrate(out: Path) -> None:
    """Train (or go on, or use what is trained), evaluate on held-out dates, and translate."""
    progress, folder = Progress(), RunFolder(out)
    started = time.monotonic()
    progress.say("Learning to read dates in 18 languages from 30,000 examples: some two minutes on two cores.")
    if not folder.config.exists():
        begin(demo_config(), out, progress=progress, beam_size=1)
    finish(folder, progress=progress)
    progress.say(f"this took {duration(time.monotonic() - started)}")
    report = json.loads(folder.report.read_bytes())
    match = next(score["value"] for score in report["scores"] if score["name"] == EXACT_MATCH)
    print(f"exact match {match:.1f} % on {report['pairs']:,} held-out pairs\n")
    translator = load(out)
    width = max(len(line) for line in LINES)
    for line, translation in zip(LINES, translator.translate(LINES), strict=True):
        print(f"{line:<{width}}  ->  {translation}")
    print(f"\nEverything lies in {out}: config.yaml, metrics.jsonl, report.html, checkpoints/, model/")
    command = os.path.relpath(Path(sys.executable).with_name("pytorch-dl"))
    print(f"Translate more with: {command} translate {out}")
    if sys.stdin.isatty() and sys.stdout.isatty():
        converse(translator, SearchSettings())
