"""A training that Weights & Biases follows offline, stopped once, and what its files then hold, as JSON on stdout."""

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from tiny import tiny_trainer
from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore

from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.training.progress import Sample
from pytorch_dl.training.validation import Decoded


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


def read(path: Path) -> dict[str, Any]:
    """The records of one run."""
    store, found = DataStore(), {"config": {}, "curves": {}}
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            found["id"] = record.run.run_id
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("config"):
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.config.update}
        if record.HasField("history"):
            row = {item.key or item.nested_key[-1]: json.loads(item.value_json) for item in record.history.item}
            step = str(row.get("_step", record.history.step.num))
            for name, value in row.items():
                found["curves"].setdefault(name, {})[step] = value
        if record.HasField("exit"):
            found["exit_code"] = record.exit.exit_code
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
