"""Sentences a second at decoding: `python benchmark/decoding.py [--data FOLDER] [--size T|B]`.

This project, Hugging Face's generate and CTranslate2 on this project's exported model, each in a process of its own, by
turns: the same sources in one batch, models of one size with random weights, exactly as many new tokens for each
sentence. Writes NAME.json and NAME.md. On a GPU: `--device cuda --beams 1,5`, with CUDA graphs beside.
"""

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.benchmark import SIZES
from benchmark.measuring.command_line import positive, say
from benchmark.measuring.machine import RESULTS, machine
from benchmark.race.by_turns import turns
from benchmark.race.contender import save
from benchmark.race.workload import configuration, find_text, prepare, text_settings
from benchmark.readers.engines import Task, found_engines
from benchmark.readers.worker import Reader
from pytorch_dl.building import choose_device
from pytorch_dl.config import Config, get_config
from pytorch_dl.data import dates_file
from pytorch_dl.dataset.text_lines import read_lines
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.files import write_file, write_json

TEST = "test_2016_flickr.en.gz"
AGAINST = "hf-float32"
PROFILED = "ours-bf16"


def main() -> None:
    """Measure and write."""
    options = parser().parse_args()
    preset, folder = SIZES[options.size], find_text(options.data)
    text = text_settings(folder, src_suffix="en", tgt_suffix="de")
    config = configuration(get_config(preset) if preset else Config(), text, options.settings)
    device = choose_device(options.device).type
    found: dict[str, Any] = {
        "machine": machine(),
        "device": device,
        "size": options.size,
        "new_tokens": options.new_tokens,
    }
    found |= {"tables": {}, "profiles": {}}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as running:
        work = prepare(config, Path(scratch), pairs_per_step=options.sentences)
        save(work)
        sources = sources_of(folder, work.tokenizers, options.sentences)
        engines = options.engines or found_engines(device)
        readers = [running.enter_context(Reader(engine, work.folder, device=device)) for engine in engines]
        found["engines"] = {reader.name: reader.describe() for reader in readers}
        for beam in options.beams:
            task = Task(sources, options.new_tokens, beam)
            found["tables"][f"beam {beam}"] = measure(readers, task, options.repeats)
            for reader in readers:
                if reader.name == PROFILED:
                    found["profiles"][f"beam {beam}"] = reader.profile(task)
    name = options.name or f"decoding-{options.size}" + ("-gpu" if device == "cuda" else "")
    write_json(RESULTS / f"{name}.json", found)
    lines = table(found)
    write_file(RESULTS / f"{name}.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, help="folder with train.en and train.de; the bundled dates without it")
    options.add_argument("--size", choices=sorted(SIZES), default="T", help="T: d 256, 3+3 layers; B: d 512, 6+6")
    options.add_argument("--sentences", type=positive, default=64, help="in the batch")
    options.add_argument("--new-tokens", type=positive, default=20, help="of each sentence")
    options.add_argument("--beams", type=numbers, default=[1, 4], help="with commas; 1 is greedy search (1,4)")
    options.add_argument("--device", default="cpu", help="cpu, cuda, or auto (cpu)")
    options.add_argument("--repeats", type=positive, default=5)
    options.add_argument("--engines", type=lambda text: text.split(","), help="with commas (all that are installed)")
    options.add_argument("--name", help="of the result files")
    options.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE", help="of the configuration")
    return options


def numbers(text: str) -> list[int]:
    """1,4 -> [1, 4]."""
    return [positive(part) for part in text.split(",")]


def sources_of(folder: Path | None, tokenizers: TokenizerPair, count: int) -> list[list[int]]:
    """Token ids of the first sentences of the test text, or of the bundled one."""
    lines = [raw.decode() for raw in islice(read_lines(folder / TEST if folder else dates_file("test")), count)]
    return tokenizers.src.encode_batch([line.partition("\t")[0] for line in lines])


def measure(readers: list[Reader], task: Task, repeats: int) -> dict[str, Any]:
    """Sentences a second of each, by turns, and as ratios to one of them in the same turn."""
    speeds: dict[str, list[float]] = {reader.name: [] for reader in readers}
    for repeat in range(-1, repeats):
        say(f"beam {task.beam_size}: " + (f"repeat {repeat + 1} of {repeats}" if repeat >= 0 else "warming up"))
        for reader in turns(readers, repeat):
            seconds = reader.seconds(task)
            if repeat >= 0:
                speeds[reader.name].append(len(task.sources) / seconds)
    base = speeds.get(AGAINST)
    return {
        name: {
            "sentences_per_s": values,
            "median": statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(values, base, strict=True)) if base else None,
        }
        for name, values in speeds.items()
    }


def table(found: dict[str, Any]) -> list[str]:
    """The result as a table of Markdown."""
    beams = list(found["tables"])
    heads = " | ".join(f"{beam}, sentences/s | × {AGAINST}" for beam in beams)
    lines = [f"| engine, size {found['size']} | {heads} |", "|---" * (1 + 2 * len(beams)) + "|"]
    for name, what in found["engines"].items():
        cells = []
        for beam in beams:
            row = found["tables"][beam][name]
            cells += [f"{row['median']:,.0f}", f"{row['ratio']:.2f}" if row["ratio"] else "–"]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
