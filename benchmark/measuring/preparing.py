"""How fast text becomes token ids on disk: ours beside Hugging Face's `datasets`."""

import importlib.util
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark.contenders.hf_datasets import prepare_with_datasets
from benchmark.measuring.command_line import say
from benchmark.race.by_turns import turns
from pytorch_dl.config import Config
from pytorch_dl.config.load import with_values
from pytorch_dl.dataset.efficient_dataloader import DataModule, texts_of

Prepare = Callable[[Path], object]  # text into an empty folder


def preparation(config: Config, *, pairs: int, repeats: int) -> dict[str, Any]:
    """Pairs a second of both sides by turns, with one tokenizer that was trained before."""
    if not importlib.util.find_spec("datasets"):
        return {"left_out": "datasets is not installed"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = DataModule(data=config.data, cache_dir=folder / "first", report=lambda _: None)
        first.setup()
        src, tgt = folder / "src", folder / "tgt"
        distinct = write_repeated(config, src, tgt, pairs=pairs)
        of_files = {"train_data_path": str(src), "train_tgt_path": str(tgt), "src_suffix": None, "tgt_suffix": None}
        data = with_values(config, {f"data.{key}": value for key, value in of_files.items()}).data
        tokenizers, quiet = first.tokenizers, {"report": lambda _: None}
        sides: dict[str, Prepare] = {
            "ours": lambda out: DataModule(data=data, tokenizers=tokenizers, cache_dir=out, **quiet).setup(),  # type: ignore[arg-type]
            "datasets": lambda out: prepare_with_datasets(src, tgt, tokenizers, out),
        }
        speeds = {
            name: [pairs / second for second in seconds] for name, seconds in timed(sides, folder, repeats).items()
        }
    medians = {side: statistics.median(found) for side, found in speeds.items()}
    return {
        "pairs": pairs,
        "distinct_pairs": distinct,
        "threads": int(os.environ.get("RAYON_NUM_THREADS") or os.cpu_count() or 1),
        "pairs_per_s": speeds,
        "median": medians,
        "ratio": medians["ours"] / medians["datasets"],
    }


def timed(sides: dict[str, Prepare], folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of each repeat; one before the first loads what is imported late."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(-1, repeats):
        say(f"preparation: repeat {repeat + 1} of {repeats}" if repeat >= 0 else "preparation: warming up")
        for side in turns(list(sides), repeat + 1):
            with tempfile.TemporaryDirectory(dir=folder) as out:
                started = time.perf_counter()
                sides[side](Path(out))
                if repeat >= 0:
                    seconds[side].append(time.perf_counter() - started)
    return seconds


def write_repeated(config: Config, src: Path, tgt: Path, *, pairs: int) -> int:
    """Write so many pairs of the training text, from its beginning again and again; returns how many it has."""
    text = [pair for stream in texts_of(config.data, seed=config.system.seed).train for pair in stream]
    for path, side in ((src, 0), (tgt, 1)):
        path.write_text("".join(f"{pair[side]}\n" for pair in itertools.islice(itertools.cycle(text), pairs)))
    return min(pairs, len(text))
