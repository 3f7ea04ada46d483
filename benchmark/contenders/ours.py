"""This project's side: its model, its trainer's step and its greedy search, with the configuration's settings.

Shapes: B batch, S source.
"""

import torch
from torch import Tensor

from pytorch_dl.building import build_model
from pytorch_dl.config import Config
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.generation import Request, SearchSettings, generate
from pytorch_dl.models.reader import Reader
from pytorch_dl.training.step import Reading
from pytorch_dl.training.trainer import OptimizedTrainer, create_trainer

TOTAL_STEPS = 10_000  # for the schedule of the learning rate


class Ours:
    """Trains the model of a trainer."""

    name = "ours"

    def __init__(self, trainer: OptimizedTrainer, config: Config, *, packed: bool) -> None:
        self.trainer, self.model, self.optimizer = trainer, trainer.model, trainer.update.optimizer
        if config.system.compile is True:
            self.model.train().compile_layers()
            if packed:
                trainer.record_passes()
        self._last: Reading | None = None
        self.what = described(config, trainer.state.precision, packed=packed)

    def step(self, batch: Batch) -> float:
        """One step of training; returns the loss of a target token: on a GPU, of the step before, as training does."""
        begun = self.begin_step(batch)
        read = self._last if self._last and self.trainer.update.reads_late else begun
        self._last = begun
        sums = read.read()
        return sums.loss / sums.tgt_tokens

    def begin_step(self, batch: Batch) -> Reading:
        """One step of training, without waiting for it."""
        return self.trainer.begin_step([batch], total_steps=TOTAL_STEPS)


class OursOnText(Ours):
    """Trains a model of the tokenizers' vocabulary, and reads another out."""

    def __init__(self, config: Config, tokenizers: TokenizerPair, loader: BatchLoader, *, run_dir: str) -> None:
        model = build_model(config, tokenizers)
        trainer = create_trainer(model=model, train_dataloader=loader, config=config, run_dir=run_dir)
        super().__init__(trainer, config, packed=loader.planner.packed)
        self.reader = Reader(build_model(config, tokenizers).eval())  # as a Translator has it: in fp32, not compiled
        self.special = tokenizers.tgt

    @torch.inference_mode()
    def decode(self, src: Tensor, new_tokens: int) -> Tensor:
        """src (B, S) -> the likeliest tokens, one after another, (B, new_tokens)."""
        special = self.special
        settings = SearchSettings(
            beam_size=1, max_length_ratio=0, max_length_offset=new_tokens, min_length=new_tokens, length_penalty=0.0
        )
        marks = {special.pad_id, special.eos_id}
        found = generate(
            self.reader,
            [Request([id for id in row if id not in marks]) for row in src.tolist()],
            settings,
            pad_id=special.pad_id,
            bos_id=special.bos_id,
            eos_id=special.eos_id,
            banned_ids=[special.unk_id],
            max_positions=self.reader.max_seq_len,
            max_tokens_per_batch=src.numel(),
            device=next(self.reader.model.parameters()).device,
        )
        return torch.tensor([[*best[0].ids, *[special.eos_id] * best[0].finished] for best in found])


def described(config: Config, precision: str, *, packed: bool) -> str:
    """What this side is, in words."""
    model, data = config.model, config.data
    batches = "batches of like length" if data.use_dynamic_batching else "random batches"
    parts = [
        "pre-norm" if model.norm_first else "post-norm",
        *(model.activation, model.norm_type, model.positions, precision),
        "pairs packed into rows" if packed else batches,
        "projection and loss in chunks",
        f"{config.optimizer.name}, fused",
        "layers compiled" if config.system.compile is True else "not compiled",
        *(["layers checkpointed"] if model.use_checkpointing else []),
        *([f"activation_budget {model.activation_budget:g}"] if model.activation_budget < 1 else []),
        "keys and values kept while decoding",
    ]
    return f"pytorch_dl: {', '.join(parts)}"
