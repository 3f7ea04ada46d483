"""Time from raw text to a BLEU: `python benchmark/time_to_quality.py --data FOLDER [--times 2]`.

This project trains configs/multi30k-quick.yaml with `pytorch-dl run`, from raw text to the report on the test text.
Then Hugging Face's Marian of the same size is trained by Seq2SeqTrainer for `--times` as long, on token ids that are
given to it, with a learning rate that falls to zero by then, and scored alike. Writes NAME.json after each part.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.contenders.hf_trainer import HuggingFaceTrainer
from benchmark.measuring.machine import RESULTS, ROOT, machine
from benchmark.race.workload import configuration, prepare
from pytorch_dl.config.load import load_config
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.evaluation.metrics import bleu
from pytorch_dl.files import write_json
from pytorch_dl.process import keep_freed_memory

CONFIG = ROOT / "configs" / "multi30k-quick.yaml"
GOAL, BEAM, LEARNING_RATE, SENTENCES = 35.0, 5, 7e-4, 50
WARMUP_STEPS, TIMED_STEPS = 5, 100  # it groups 50 batches by length, the longest first


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and test_2016_flickr")
    parser.add_argument("--times", type=float, default=2.0, help="how long the other trains, in times of ours")
    parser.add_argument("--out", type=Path, default=RESULTS / "time_to_quality.json")
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE", help="of our run")
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "goal": f"{GOAL} sacreBLEU on test 2016, beam {BEAM}"}
    with tempfile.TemporaryDirectory() as name:
        found["ours"] = train_ours(options.data.resolve(), Path(name) / "run", options.settings)
        write_json(options.out, found)
        print(json.dumps(found["ours"], indent=2), flush=True)
        seconds = options.times * found["ours"]["seconds"]
        found["hf-trainer"] = train_other(options.data.resolve(), Path(name), options.settings, seconds=seconds)
    write_json(options.out, found)
    print(json.dumps(found["hf-trainer"], indent=2))


def train_ours(data: Path, run: Path, settings: list[str]) -> dict[str, Any]:
    """`pytorch-dl run`, with nothing prepared and nothing compiled before; seconds of its whole process."""
    texts = {"": "train", "val-": "val", "test-": "test_2016_flickr"}
    words: list[object] = ["pytorch-dl", "run", "--config", CONFIG, "--out", run, "--beam", BEAM]
    for kind, name in texts.items():
        words += [f"--{kind}src", data / f"{name}.en.gz", f"--{kind}tgt", data / f"{name}.de.gz"]
    command = Path(sys.executable).parent / "pytorch-dl"
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(run.parent / "compiled"), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    started = time.perf_counter()
    subprocess.run([str(command), *map(str, words[1:]), *settings], check=True, env=environment, stdout=sys.stderr)
    seconds = time.perf_counter() - started
    report = json.loads((run / "report.json").read_text())
    last = json.loads((run / "timing.jsonl").read_text().splitlines()[-1])
    score = next(score["value"] for score in report["scores"] if score["name"] == "BLEU")
    shown = " ".join(str(word).replace(f"{data}/", "").replace(str(run), "RUN") for word in words)
    return {
        "command": " ".join([shown.replace(f"{ROOT}/", ""), *settings]),
        "seconds": seconds,
        "bleu": score,
        "training_seconds": last["seconds"],
        "tokens_per_second": last["tokens_per_second"],
    }


def train_other(data: Path, folder: Path, settings: list[str], *, seconds: float) -> dict[str, Any]:
    """Seq2SeqTrainer for so many seconds, then its beam search over the test text."""
    keep_freed_memory()
    tokenizers = TokenizerPair.load(folder / "run" / "tokenizer")
    text = {"data.train_data_path": str(data / "train"), "data.src_suffix": "en", "data.tgt_suffix": "de"}
    config = configuration(load_config(CONFIG), text, settings)
    work = prepare(config, folder, pairs_per_step=64, tokenizers=tokenizers)
    side = work.side("hf-trainer")
    assert isinstance(side, HuggingFaceTrainer)
    side.train(WARMUP_STEPS)
    started = time.perf_counter()
    side.train(TIMED_STEPS)
    steps = round(seconds / ((time.perf_counter() - started) / TIMED_STEPS))
    side.stop()
    side = work.side("hf-trainer")  # anew
    assert isinstance(side, HuggingFaceTrainer)
    trainer, clock = side.trainer(
        max_steps=steps, learning_rate=LEARNING_RATE, warmup_steps=steps // 10, lr_scheduler_type="linear"
    )
    clock.wanted.put(steps)
    started = time.perf_counter()
    trainer.train()
    trained = time.perf_counter() - started
    translations = translated(side, tokenizers, read(data / "test_2016_flickr.en.gz"))
    return {
        "what": side.what,
        "parameters": sum(parameter.numel() for parameter in side.model.parameters()),
        "settings": {"steps": steps, "pairs_per_step": 64, "learning_rate": LEARNING_RATE, "schedule": "linear"},
        "seconds": time.perf_counter() - started,
        "training_seconds": trained,
        "tokens_per_second": sum(clock.made) / trained,
        "bleu": bleu(translations, read(data / "test_2016_flickr.de.gz")).value,
    }


def translated(side: HuggingFaceTrainer, tokenizers: TokenizerPair, sources: list[str]) -> list[str]:
    """Its beam search, sentences of like length together."""
    import torch

    side.model.eval()
    ids = [[*pair_ids, tokenizers.tgt.eos_id] for pair_ids in tokenizers.src.encode_batch(sources)]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    found = [""] * len(ids)
    for start in range(0, len(order), SENTENCES):
        part = order[start : start + SENTENCES]
        longest = max(len(ids[index]) for index in part)
        src = torch.tensor([ids[index] + [side.pad_id] * (longest - len(ids[index])) for index in part])
        out = side.model.generate(
            input_ids=src,
            attention_mask=(src != side.pad_id).long(),
            num_beams=BEAM,
            max_new_tokens=2 * longest + 10,
            eos_token_id=tokenizers.tgt.eos_id,
        )
        special = {side.pad_id, tokenizers.tgt.eos_id}
        rows = [[id for id in row if id not in special] for row in out.tolist()]
        for index, text in zip(part, tokenizers.tgt.decode_batch(rows), strict=True):
            found[index] = text
    return found


def read(path: Path) -> list[str]:
    """The lines of a gzip file."""
    import gzip

    return gzip.decompress(path.read_bytes()).decode().splitlines()


if __name__ == "__main__":
    main()
