"""A training that Weights & Biases follows offline, stopped once, and what its files then hold, as JSON on stdout."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tiny import tiny_trainer
from wandb.proto import wandb_internal_pb2

from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.training.progress import Sample
from pytorch_dl.training.validation import Decoded

BLOCK, WHOLE, LAST = 1 << 15, 1, 4


def main(folder: Path) -> None:
    """Train to step 3, go on from the checkpoint of step 2, and read both runs."""
    stop: list[int] = [3]
    for _ in range(2):
        trainer = tiny_trainer(
            folder,
            settings={"max_steps": 4, "eval_every": 2},
            logging=LoggingConfig(log_every=1, tensorboard=False, wandb=True),
            decode=lambda *_: Decoded({}, [Sample("größe", "ref", "out", lambda: Image.new("RGB", (2, 3)))]),
        )
        trainer.resume()
        begin_step = trainer.begin_step

        def begin(batches: Any, *, total_steps: int, trainer: Any = trainer, begin_step: Any = begin_step) -> Any:
            if [trainer.state.step] == stop:
                stop.clear()
                raise KeyboardInterrupt
            return begin_step(batches, total_steps=total_steps)

        trainer.begin_step = begin  # type: ignore[method-assign]
        try:
            trainer.train()
        except KeyboardInterrupt:
            assert not stop
    print(json.dumps([read(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=by_time)]))


def by_time(path: Path) -> float:
    return path.stat().st_mtime


def records(path: Path) -> Iterator[bytes]:
    """Those of a LevelDB log behind a header of 7 bytes, for which wandb has no reader in Python any more.

    Blocks of 32 kB hold pieces: checksum (4 bytes), length (2), kind (1): a whole record, or its first, middle or last.
    """
    content, at, record = path.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while at + 7 <= len(content):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record, at = record + content[at + 7 : at + 7 + length], at + 7 + length
        if kind in (WHOLE, LAST):
            yield record
            record = b""


def read(path: Path) -> dict[str, Any]:
    """The records of one run."""
    found: dict[str, Any] = {"config": {}, "curves": {}}
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            found["id"] = record.run.run_id
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("config"):
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.config.update}
        if record.HasField("history"):
            row: dict[str, Any] = {}
            for item in record.history.item:
                name, *inner = [item.key] if item.key else item.nested_key
                value = json.loads(item.value_json)
                row[name] = {**row.get(name, {}), inner[0]: value} if inner else value
            step = str(row.get("_step", record.history.step.num))
            for name, value in row.items():
                found["curves"].setdefault(name, {})[step] = value
        if record.HasField("exit"):
            found["exit_code"] = record.exit.exit_code
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
