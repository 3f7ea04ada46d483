"""Make the oracle of tests/models/test_marian.py: a tiny random Hugging Face Marian model and what it computes.

    python -m scripts.make_marian_fixture

Needs `transformers`; the test does not. Writes weights, inputs, logits and greedy tokens as safetensors, and the shape
of the model as JSON beside it.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save
from torch import Tensor

from pytorch_dl.files import write_file, write_json

FOLDER = Path(__file__).parent.parent / "tests" / "models"
SHAPE: dict[str, Any] = {
    "vocab_size": 48,
    "d_model": 32,
    "n_heads": 4,
    "d_ff": 64,
    "num_layers": 2,
    "max_seq_len": 24,
    "pad_token_id": 0,
    "activation": "swish",
}
GREEDY_STEPS = 10


def marian() -> transformers.MarianMTModel:
    """Build the model with random weights everywhere, so that no bias or norm can be mistaken unseen."""
    config = transformers.MarianConfig(
        vocab_size=SHAPE["vocab_size"],
        d_model=SHAPE["d_model"],
        encoder_layers=SHAPE["num_layers"],
        decoder_layers=SHAPE["num_layers"],
        encoder_attention_heads=SHAPE["n_heads"],
        decoder_attention_heads=SHAPE["n_heads"],
        encoder_ffn_dim=SHAPE["d_ff"],
        decoder_ffn_dim=SHAPE["d_ff"],
        max_position_embeddings=SHAPE["max_seq_len"],
        activation_function=SHAPE["activation"],
        pad_token_id=SHAPE["pad_token_id"],
        decoder_start_token_id=SHAPE["pad_token_id"],
        eos_token_id=1,
        scale_embedding=True,
    )
    model = transformers.MarianMTModel(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.normal_(mean=1.0 if "norm.weight" in name else 0.0, std=SHAPE["d_model"] ** -0.5)
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Random sources and targets with padding at their ends; the padding id also starts each target, as in Marian."""
    generator = torch.Generator().manual_seed(1)
    src, tgt = (torch.randint(2, SHAPE["vocab_size"], (4, width), generator=generator) for width in (9, 7))
    for rows, lengths in ((src, (9, 4, 6, 1)), (tgt, (3, 7, 2, 5))):
        for row, length in zip(rows, lengths, strict=True):
            row[length:] = SHAPE["pad_token_id"]
    tgt[:, 0] = SHAPE["pad_token_id"]
    return src, tgt


@torch.no_grad()
def fixture() -> dict[str, Tensor]:
    """Return weights (under Marian's names), `src`, `tgt`, `logits`, and `greedy` (B, GREEDY_STEPS)."""
    model = marian()
    src, tgt = batch()
    mask = (src != SHAPE["pad_token_id"]).long()
    logits = model(input_ids=src, attention_mask=mask, decoder_input_ids=tgt, use_cache=False).logits
    written = tgt[:, :1]
    for _ in range(GREEDY_STEPS):
        step = model(input_ids=src, attention_mask=mask, decoder_input_ids=written, use_cache=False).logits[:, -1]
        step = step.scatter(1, written, float("-inf"))  # each token once: random models like to repeat themselves
        written = torch.cat((written, step.argmax(-1, keepdim=True)), dim=1)
    weights = {name: value.detach().clone() for name, value in model.named_parameters() if "embed_pos" not in name}
    return {**weights, "src": src, "tgt": tgt, "logits": logits.contiguous(), "greedy": written[:, 1:].contiguous()}


def main() -> None:
    """Write the fixture into the tests."""
    write_file(FOLDER / "marian_fixture.safetensors", save(fixture()))
    write_json(FOLDER / "marian_fixture.json", {**SHAPE, "transformers": transformers.__version__})


if __name__ == "__main__":
    main()
