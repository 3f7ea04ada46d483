"""Hugging Face's Marian trained by its Seq2SeqTrainer, with the best settings that it has for this.

bf16, batches grouped by length, fused AdamW, label smoothing by its own loss; the same token ids, sizes and pairs a
step as the others.
"""

import threading
import time
from queue import Queue
from typing import Any

import numpy as np
import torch

from benchmark.contenders.peers import marian_model
from benchmark.measuring.device_time import synchronize
from pytorch_dl.building import choose_device
from pytorch_dl.config import Config
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.training.precision import choose_precision

IGNORED = -100
MANY_STEPS = 1_000_000


class Pairs(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Token ids of the pairs of a loader, as the Trainer wants them: both sides end with eos."""

    def __init__(self, loader: BatchLoader) -> None:
        self.src, self.tgt, self.eos = loader.src, loader.tgt, loader.special.eos_id
        self.kept = loader.planner.kept
        self.lengths: list[int] = loader.planner.lengths.take(self.kept).src.tolist()

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        pair = int(self.kept[index])
        src, tgt = (side.ids[side.offsets[pair] : side.offsets[pair + 1]].tolist() for side in (self.src, self.tgt))
        return {"input_ids": [*src, self.eos], "labels": [*tgt, self.eos]}


class HuggingFaceTrainer:
    """Trains with one Seq2SeqTrainer.train, in a thread that waits whenever the steps that it was told to do are done.

    One training and not several short ones: grouped by length, it begins with the longest pairs.
    """

    name = "hf-trainer"

    def __init__(
        self, config: Config, *, vocab_size: int, pad_id: int, loader: BatchLoader, pairs_per_step: int, folder: str
    ) -> None:
        self.model = marian_model(config, vocab_size=vocab_size, pad_id=pad_id)
        self.pairs, self.pad_id, self.folder = Pairs(loader), pad_id, folder
        self.pairs_per_step, self.smoothing = pairs_per_step, config.training.label_smoothing
        self._clock: Clock | None = None
        self._thread: threading.Thread | None = None
        self.bf16 = choose_precision(config.training.mixed_precision, choose_device("auto")) == "bf16"
        precision = "bf16" if self.bf16 else "fp32"
        self.what = (
            f"Hugging Face MarianMTModel with Seq2SeqTrainer, {precision}, batches grouped by length, fused AdamW, "
            "its label smoothing"
        )

    def train(self, steps: int) -> tuple[float, float]:
        """Real tokens a second of some steps, and the loss of a token in the last of them."""
        if self._clock is None:
            trainer, self._clock = self.trainer(max_steps=MANY_STEPS)
            self._thread = threading.Thread(target=trainer.train, daemon=True)
            self._thread.start()
        return self._clock.run(steps)

    @property
    def efficiency(self) -> float:
        """Real tokens / all positions of the batches so far: it makes its own."""
        assert self._clock, "it has not trained"
        return sum(self._clock.made) / self._clock.positions

    def stop(self) -> None:
        """End the training, and wait for its end: until then it needs its folder."""
        if self._clock and self._thread:
            self._clock.wanted.put(0)
            self._thread.join()

    def trainer(self, **settings: Any) -> tuple[Any, "Clock"]:
        """A Seq2SeqTrainer with these further settings, and the clock that it is watched by."""
        from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

        class Watched(Seq2SeqTrainer):  # type: ignore[misc]
            def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
                clock.loss = super().training_step(*arguments, **named)
                return clock.loss

        arguments = Seq2SeqTrainingArguments(
            output_dir=self.folder,
            per_device_train_batch_size=self.pairs_per_step,
            train_sampling_strategy="group_by_length",
            bf16=self.bf16,
            optim="adamw_torch_fused",
            label_smoothing_factor=self.smoothing,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            **settings,
        )
        clock = Clock(pad_id=self.pad_id)
        trainer = Watched(
            model=self.model,
            args=arguments,
            train_dataset=self.pairs,
            data_collator=clock.collate,
            callbacks=[clock.callback()],
        )
        return trainer, clock


class Clock:
    """Makes the Trainer's batches, counts their tokens, and lets it do some steps at a time, where it is told to."""

    def __init__(self, *, pad_id: int) -> None:
        self.pad_id = pad_id
        self.made: list[int] = []
        self.positions = 0
        self.loss: torch.Tensor | None = None
        self.wanted: Queue[int] = Queue()
        self.done: Queue[tuple[float, float]] = Queue()

    def run(self, steps: int) -> tuple[float, float]:
        """Let the Trainer do some steps: real tokens a second, and the loss of the last."""
        self.wanted.put(steps)
        return self.done.get()

    def collate(self, pairs: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Pad both sides to their longest."""
        src = padded([pair["input_ids"] for pair in pairs], self.pad_id)
        labels = padded([pair["labels"] for pair in pairs], IGNORED)
        self.made.append(sum(len(pair["input_ids"]) + len(pair["labels"]) for pair in pairs))
        self.positions += src.numel() + labels.numel()
        decoder_inputs = labels.roll(1, dims=1)
        decoder_inputs[:, 0] = IGNORED
        return {
            "input_ids": src,
            "attention_mask": (src != self.pad_id).long(),
            "labels": labels,
            "decoder_input_ids": decoder_inputs.where(decoder_inputs != IGNORED, self.pad_id),
        }

    def callback(self) -> Any:
        """What stops the Trainer before a step until the next ones are wanted."""
        from transformers import TrainerCallback

        clock = self

        class Turns(TrainerCallback):  # type: ignore[misc]
            left = trained = tokens = 0
            began = 0.0

            def on_step_begin(self, _: Any, __: Any, control: Any, **___: Any) -> None:
                if self.left:
                    return
                self.left, self.tokens = clock.wanted.get(), 0
                control.should_training_stop = not self.left
                self.began = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.tokens += clock.made[self.trained]
                self.trained += 1
                self.left -= 1
                if not self.left:
                    assert clock.loss is not None
                    synchronize()
                    clock.done.put((self.tokens / (time.perf_counter() - self.began), float(clock.loss)))

        return Turns()


def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    """Rows of different lengths -> (rows, longest)."""
    out = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return torch.from_numpy(out)
