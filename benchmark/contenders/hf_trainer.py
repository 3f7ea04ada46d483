"""Hugging Face's Marian trained by its Seq2SeqTrainer, with the best settings that it has for this.

bf16, batches grouped by length, fused AdamW, label smoothing by its own loss; the same token ids, sizes and pairs a
step as the others.
"""

import time
from typing import Any

import numpy as np
import torch

from benchmark.contenders.peers import marian_model
from pytorch_dl.config import Config
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.training.precision import choose_precision

IGNORED = -100


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
    """Trains with Seq2SeqTrainer.train, which it begins anew for each measurement."""

    name = "hf-trainer"

    def __init__(
        self, config: Config, *, vocab_size: int, pad_id: int, loader: BatchLoader, pairs_per_step: int, folder: str
    ) -> None:
        self.model = marian_model(config, vocab_size=vocab_size, pad_id=pad_id)
        self.pairs, self.pad_id, self.folder = Pairs(loader), pad_id, folder
        self.pairs_per_step, self.smoothing = pairs_per_step, config.training.label_smoothing
        self.real_tokens = self.positions = 0
        self.bf16 = choose_precision(config.training.mixed_precision, torch.device("cpu")) == "bf16"
        precision = "bf16" if self.bf16 else "fp32"
        self.what = (
            f"Hugging Face MarianMTModel with Seq2SeqTrainer, {precision}, batches grouped by length, fused AdamW, "
            "its label smoothing"
        )

    def train(self, steps: int) -> tuple[float, float]:
        """Real tokens a second from the end of the first step to that of the last, and the mean loss of a token."""
        trainer, clock = self.trainer(max_steps=steps + 1)
        trainer.train()
        self.real_tokens += sum(clock.made)
        self.positions += clock.positions
        return clock.tokens / (clock.ended - clock.began), float(trainer.state.log_history[-1]["train_loss"])

    @property
    def efficiency(self) -> float:
        """Real tokens / all positions of the batches so far: it makes its own."""
        return self.real_tokens / self.positions

    def trainer(self, **settings: Any) -> tuple[Any, "Clock"]:
        """A Seq2SeqTrainer with these further settings, and the clock that it is watched by."""
        from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

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
        trainer = Seq2SeqTrainer(
            model=self.model,
            args=arguments,
            train_dataset=self.pairs,
            data_collator=clock.collate,
            callbacks=[clock.callback()],
        )
        return trainer, clock


class Clock:
    """Makes the Trainer's batches, counts their tokens, and notes when its steps end."""

    def __init__(self, *, pad_id: int) -> None:
        self.pad_id = pad_id
        self.made: list[int] = []
        self.positions = 0
        self.tokens, self.began, self.ended, self.steps = 0, 0.0, 0.0, 0

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
        """What tells this clock of the Trainer's steps."""
        from transformers import TrainerCallback

        clock = self

        class Steps(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.steps += 1
                clock.ended = time.perf_counter()
                if clock.steps == 1:
                    clock.began = clock.ended
                else:
                    clock.tokens += clock.made[clock.steps - 1]

        return Steps()


def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    """Rows of different lengths -> (rows, longest)."""
    out = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return torch.from_numpy(out)
