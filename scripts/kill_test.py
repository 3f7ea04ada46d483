"""Kill a training run again and again, and show that nothing is lost: `python scripts/kill_test.py --kills 20`.

Two runs of one configuration on the bundled dates (dropout, packing, accumulation, moving average): one undisturbed,
one killed with SIGKILL at random moments, half of them while a checkpoint is being written, and resumed each time.
Prints one line of JSON; the exit code is 1 when weights, optimizer or metrics.jsonl differ in a single bit.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pytorch_dl.data import dates_file

STEPS, SAVE_EVERY = 150, 5
SETTINGS = {
    "model": {"d_model": 32, "n_heads": 2, "num_encoder_layers": 2, "num_decoder_layers": 2, "dropout": 0.1},
    "data": {"tokenizer_name": "char", "vocab_size": 512, "max_tokens_per_batch": 1024, "layout": "packed"},
    "training": {
        "max_steps": STEPS,
        "save_every": SAVE_EVERY,
        "eval_every": 40,
        "eval_decode": 8,
        "gradient_accumulation_steps": 2,
        "ema_decay": 0.99,
    },
    "logging": {"log_every": 5, "tensorboard": False},
}


def main() -> None:
    """Parse the command line, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "config.yaml"
        data = {"train_data_path": str(dates_file("val")), "val_data_path": str(dates_file("test"))}
        config.write_text(json.dumps({**SETTINGS, "data": {**SETTINGS["data"], **data}}))
        started = time.monotonic()
        straight, killed = folder / "straight", folder / "killed"
        finish(["train", str(config), "--out", str(straight)])
        seconds = time.monotonic() - started
        lives = Lives(killed, config, random.Random(arguments.seed), seconds=seconds)
        for number in range(arguments.kills):
            lives.kill(in_save=number % 2 == 1)
        finish(lives.command())
        result = {
            "kills": arguments.kills,
            "killed_while_saving": lives.in_saves,
            "most_steps_done_again": lives.most_lost,
            "steps": STEPS,
            "equal": {name: sums(straight)[name] == sums(killed)[name] for name in sums(straight)},
        }
    print(json.dumps(result))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    raise SystemExit(0 if all(result["equal"].values()) else 1)


class Lives:
    """One run that is begun, killed and resumed."""

    def __init__(self, run: Path, config: Path, rng: random.Random, *, seconds: float) -> None:
        self.run, self.config, self.rng, self.seconds = run, config, rng, seconds
        self.in_saves = self.most_lost = 0

    def command(self) -> list[str]:
        """Begin the run, or go on with it."""
        if (self.run / "config.yaml").exists():
            return ["resume", str(self.run)]
        return ["train", str(self.config), "--out", str(self.run)]

    def kill(self, *, in_save: bool) -> None:
        """Live for a while, a finished run from its start again, and be killed."""
        process = start(self.command())
        moment = time.monotonic() + self.rng.uniform(0.2, 1.0) * self.seconds / 3
        while process.poll() is None:
            saving = any(self.run.glob("checkpoints/.tmp-*"))
            if time.monotonic() >= moment and (saving or not in_save):
                self.in_saves += saving
                break
            time.sleep(0.0005 if in_save else 0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.most_lost = max(self.most_lost, self._last_step("metrics.jsonl") - self._last_checkpoint())

    def _last_step(self, name: str) -> int:
        lines = (self.run / name).read_text().splitlines() if (self.run / name).exists() else []
        whole = [line for line in lines if line.endswith("}")]
        return int(json.loads(whole[-1])["step"]) if whole else 0

    def _last_checkpoint(self) -> int:
        return max((int(path.name.removeprefix("step-")) for path in self.run.glob("checkpoints/step-*")), default=0)


def start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    """A process of the command line."""
    return subprocess.Popen([sys.executable, "-m", "pytorch_dl", *arguments], stderr=subprocess.DEVNULL)


def finish(arguments: list[str]) -> None:
    """Run the command line to its end."""
    code = start(arguments).wait()
    if code:
        raise SystemExit(f"pytorch-dl {' '.join(arguments)} ended with exit code {code}")


def sums(run: Path) -> dict[str, str]:
    """SHA-256 of what training leaves, of the last checkpoint and of the weights for use."""
    last = max(run.glob("checkpoints/step-*"))
    found = {path.name: path for path in last.glob("*.safetensors")}
    found |= {"metrics.jsonl": run / "metrics.jsonl", "weights for use": run / "model" / "model.safetensors"}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(found.items())}


if __name__ == "__main__":
    main()
