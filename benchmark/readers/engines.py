"""Engines that write tokens for the same sources: this project, Hugging Face's generate, CTranslate2.

Each writes exactly so many new tokens for each sentence, all sentences in one batch, with models of one size. An
engine's name tells its precision and, last, whether it replays CUDA graphs: ours-bf16-graphs.
"""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from benchmark.contenders.peers import marian_model
from pytorch_dl.building import build_model
from pytorch_dl.config import Config
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.generation import Request, SearchSettings, generate
from pytorch_dl.translator import Translator


class Task(NamedTuple):
    """What is to be written."""

    sources: list[list[int]]  # token ids without eos
    new_tokens: int
    beam_size: int


class Engine(Protocol):
    """Something that writes."""

    what: str

    def write(self, task: Task) -> int:
        """Do the task; returns the number of tokens written for the best output of all sentences."""
        ...


class Ours:
    """This project's search."""

    def __init__(self, config: Config, tokenizers: TokenizerPair, *, precision: str, device: str, graphs: bool) -> None:
        model = build_model(config, tokenizers).eval().to(device)
        self.translator = Translator(model, tokenizers, precision=precision, cuda_graphs=graphs)
        self.what = f"pytorch_dl, {precision}" + (", CUDA graphs" if graphs else "")

    def write(self, task: Task) -> int:
        """Do the task."""
        special = self.translator.tokenizers.tgt
        found = generate(
            self.translator.reader,
            [Request(source) for source in task.sources],
            SearchSettings(
                beam_size=task.beam_size,
                max_length_ratio=0,
                max_length_offset=task.new_tokens,
                min_length=task.new_tokens,
                scored=False,  # as the others
            ),
            pad_id=special.pad_id,
            bos_id=special.bos_id,
            eos_id=special.eos_id,
            banned_ids=[special.unk_id],
            max_positions=self.translator.model.max_seq_len,
            max_tokens_per_batch=10**9,
            device=next(self.translator.model.parameters()).device,
        )
        return sum(len(best[0].ids) + best[0].finished for best in found)


class HuggingFace:
    """A MarianMTModel of the same size, and its `generate`."""

    def __init__(self, config: Config, tokenizers: TokenizerPair, *, precision: str, device: str) -> None:
        special = tokenizers.tgt
        self.pad_id, self.device = special.pad_id, device
        model = marian_model(config, vocab_size=special.vocab_size, pad_id=special.pad_id).eval()
        self.model = model.to(device=device, dtype=getattr(torch, precision))
        self.what = f"Hugging Face MarianMTModel.generate, {precision}"

    def write(self, task: Task) -> int:
        """Do the task."""
        width = max(map(len, task.sources))
        src = torch.tensor([source + [self.pad_id] * (width - len(source)) for source in task.sources])
        src = src.to(self.device)
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=src,
                attention_mask=(src != self.pad_id).long(),
                num_beams=task.beam_size,
                min_new_tokens=task.new_tokens,
                max_new_tokens=task.new_tokens,
                do_sample=False,
            )
        return int(out.cpu()[:, 1:].numel())


class CTranslate2:
    """The exported model in the inference engine."""

    def __init__(
        self, config: Config, tokenizers: TokenizerPair, folder: Path, *, compute_type: str, device: str
    ) -> None:
        import ctranslate2

        from pytorch_dl.export.ctranslate2 import convert

        self.tokenizer = tokenizers.src
        if not folder.exists():
            convert(build_model(config, tokenizers).eval(), tokenizers, folder)
        self.engine: Any = ctranslate2.Translator(
            str(folder),
            device=device,
            compute_type=compute_type,
            inter_threads=1,
            intra_threads=torch.get_num_threads(),
        )
        self.what = f"CTranslate2 {ctranslate2.__version__}, {compute_type}"

    def write(self, task: Task) -> int:
        """Do the task."""
        eos = self.tokenizer.token(self.tokenizer.eos_id)
        found = self.engine.translate_batch(
            [[*map(self.tokenizer.token, source), eos] for source in task.sources],
            beam_size=task.beam_size,
            min_decoding_length=task.new_tokens,
            max_decoding_length=task.new_tokens,
            max_batch_size=len(task.sources),
            return_end_token=True,
        )
        return sum(len(result.hypotheses[0]) for result in found)


NEEDED = {"ours": "torch", "hf": "transformers", "ct2": "ctranslate2"}
NAMES = {
    "cpu": ("ours-fp32", "ours-bf16", "ours-int8", "hf-float32", "ct2-float32", "ct2-int8"),
    "cuda": ("ours-fp32", "ours-bf16", "ours-bf16-graphs", "hf-float32", "hf-bfloat16", "ct2-float32", "ct2-float16"),
}


def found_engines(device: str) -> list[str]:
    """Those whose packages are installed."""
    return [name for name in NAMES[device] if importlib.util.find_spec(NEEDED[name.partition("-")[0]])]


def engine(name: str, config: Config, tokenizers: TokenizerPair, folder: Path, *, device: str) -> Engine:
    """An engine by its name; `folder` holds exported models."""
    kind, precision, *more = name.split("-")
    assert name in NAMES[device], f"{name} is none of {', '.join(NAMES[device])}"
    if kind == "ours":
        return Ours(config, tokenizers, precision=precision, device=device, graphs=more == ["graphs"])
    if kind == "hf":
        return HuggingFace(config, tokenizers, precision=precision, device=device)
    return CTranslate2(config, tokenizers, folder / name, compute_type=precision, device=device)
