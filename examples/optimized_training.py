"""The Python API from top to bottom: settings, data, model, training, translation.

    python examples/optimized_training.py

learns to write dates such as "mardi 14 juillet 1789" as 1789-07-14, from pairs that come with the package, in minutes
on a CPU. Put your own texts in the place of `dates_file(...)`: two files, or one TSV, CSV, JSONL or Parquet file.
"""

from pathlib import Path

import torch

from pytorch_dl.config import get_config, to_yaml
from pytorch_dl.data import dates_file
from pytorch_dl.dataset.efficient_dataloader import DataModule
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.trainer import create_trainer
from pytorch_dl.translator import Translator

LINES = ("March 7th, 2024", "mardi 14 juillet 1789", "31. Dezember 2026", "3 de mayo de 1999")


def main(
    *, num_epochs: int = 2, max_steps: int | None = None, out: str | Path = "runs/optimized_training"
) -> Translator:
    """Train for some epochs, or so many optimizer steps; called again, go on where it stopped."""
    # 1. Settings: a template, and what this task needs otherwise. An unknown name or a value that cannot be is refused.
    config = get_config("nano")
    config.update(
        model={"dropout": 0.0, "max_seq_len": 64},
        data={
            "train_data_path": str(dates_file("train")),
            "val_data_path": str(dates_file("val")),
            "tokenizer_name": "char",
            "max_length": 64,
            "max_tokens_per_batch": 3000,
        },
        training={"learning_rate": 3e-3, "num_epochs": num_epochs, "max_steps": max_steps, "label_smoothing": 0.0},
    )
    print(to_yaml(config))

    # 2. Data: trains the tokenizer, and writes the token ids of all pairs to a file that later runs find again.
    data_module = DataModule(data=config.data, seed=config.system.seed, cache_dir=Path(out) / "cache")
    data_module.setup()

    # 3. Model: its size comes from the settings, its vocabulary from the data.
    torch.manual_seed(config.system.seed)
    src_vocab_size, tgt_vocab_size = data_module.vocab_sizes
    model = OptimizedTransformer(src_vocab_size=src_vocab_size, tgt_vocab_size=tgt_vocab_size, **config.model.__dict__)
    print(f"{model.num_parameters():,} parameters")

    # 4. Training: checkpoints, metrics.jsonl and TensorBoard files go to `out`; the best weights end in `model`.
    trainer = create_trainer(
        model=model,
        train_dataloader=data_module.train_dataloader(),
        val_dataloader=data_module.val_dataloader(),
        config=config,
        run_dir=out,
    )
    trainer.resume()
    trainer.train(num_epochs=config.training.num_epochs)

    # 5. Translation: beam search unless beam_size is 1.
    translator = Translator(model, data_module.tokenizers)
    for line, translation in zip(LINES, translator.translate(LINES, beam_size=1), strict=True):
        print(f"{line}  ->  {translation}")
    return translator


if __name__ == "__main__":
    main()
