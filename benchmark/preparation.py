"""Measure the memory of preparing and training: `python benchmark/preparation.py`.

Writes synthetic pairs (Zipf words, 5 to 30 to a sentence) to two files, then does what a run does: tokenizer, token
store, some steps of training. Prints and writes JSON with the seconds and the peaks of resident memory. Linux only.
"""

import argparse
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from benchmark.measuring.machine import RESULTS, machine
from pytorch_dl import files
from pytorch_dl.building import build_model
from pytorch_dl.config import get_config
from pytorch_dl.config.load import with_values
from pytorch_dl.dataset.efficient_dataloader import DataModule
from pytorch_dl.training.trainer import create_trainer

SEED = 1
DISTINCT_WORDS = 500_000
EXPONENT = 1.05
CHUNK = 10_000
SYLLABLES = {
    "src": [onset + vowel for onset in ("", *"bdfghklmnprstvw", "st", "tr", "ch") for vowel in "aeiou"],
    "tgt": [onset + vowel for onset in ("", *"bdfgjklmnprstz", "sch", "pf") for vowel in (*"aeiouäöü", "ei", "au")],
}


def main() -> None:
    """Parse the command line, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2_000_000)
    parser.add_argument("--tokenizer", default="bpe", help="bpe, unigram, char or byte")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--train-steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULTS / "preparation.json", help="the JSON file to write")
    arguments = parser.parse_args()

    where = machine()
    measured = {"pairs": arguments.pairs, "rss_imports_mb": memory_mb("VmRSS")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = multiprocessing.get_context("spawn").Process(target=write_pairs, args=(folder, arguments.pairs))
        writer.start()  # a process of its own, so that its memory does not count
        writer.join()
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to the present memory
        config = with_values(
            get_config("nano"),
            {
                "data.train_data_path": str(folder / "train.src"),
                "data.train_tgt_path": str(folder / "train.tgt"),
                "data.tokenizer_name": arguments.tokenizer,
                "data.vocab_size": arguments.vocab_size,
                "training.max_steps": arguments.train_steps,
            },
        )
        start = time.perf_counter()
        data = DataModule(data=config.data, cache_dir=folder / "cache")
        data.setup()
        measured |= {"prepare_seconds": time.perf_counter() - start, "prepare_peak_rss_mb": memory_mb("VmHWM")}
        model = build_model(config, data.tokenizers)
        trainer = create_trainer(
            model=model, train_dataloader=data.train_dataloader(), config=config, run_dir=folder / "run"
        )
        trainer.train()
        measured |= {"train_steps": trainer.state.step, "peak_rss_mb": memory_mb("VmHWM")}
    measured["above_imports_mb"] = measured["peak_rss_mb"] - measured["rss_imports_mb"]
    rounded = {name: round(value, 1) for name, value in measured.items()}
    print(json.dumps(rounded))
    files.write_json(arguments.out, {**rounded, "machine": where})


def write_pairs(folder: Path, pairs: int) -> None:
    """Write `pairs` lines to train.src and train.tgt: the same ranks on both sides, other words, some order changed."""
    rng = np.random.default_rng(SEED)
    frequency = np.arange(1, DISTINCT_WORDS + 1, dtype=np.float64) ** -EXPONENT
    cumulated = np.cumsum(frequency / frequency.sum())
    words = {side: distinct_words(syllables) for side, syllables in SYLLABLES.items()}
    with open(folder / "train.src", "w") as src, open(folder / "train.tgt", "w") as tgt:
        for start in range(0, pairs, CHUNK):
            lengths = rng.integers(5, 31, size=min(CHUNK, pairs - start))
            ranks = np.searchsorted(cumulated, rng.random(lengths.sum())).clip(max=DISTINCT_WORDS - 1)
            for sentence in np.split(ranks, np.cumsum(lengths)[:-1]):
                src.write(as_sentence(words["src"], sentence))
                tgt.write(as_sentence(words["tgt"], np.roll(sentence, 1)))


def as_sentence(words: list[str], ranks: np.ndarray) -> str:
    """A capital first, a comma after every seventh word, a number for every rank that 97 divides, a full stop."""
    text = [str(rank) if rank and rank % 97 == 0 else words[rank] for rank in ranks.tolist()]
    text = [f"{word}," if place % 7 == 0 else word for place, word in enumerate(text, 1)]
    return f"{' '.join(text).capitalize()}.\n"


def distinct_words(syllables: list[str]) -> list[str]:
    """The shortest words first, as in languages; made of the syllables in a fixed order."""
    by_length = (map("".join, itertools.product(syllables, repeat=length)) for length in itertools.count(1))
    distinct = dict.fromkeys(itertools.islice(itertools.chain.from_iterable(by_length), 2 * DISTINCT_WORDS))
    return list(itertools.islice(distinct, DISTINCT_WORDS))


def memory_mb(field: str) -> float:
    """A field of /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
