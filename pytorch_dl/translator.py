"""A trained model in use: `load(run).translate([...])`."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pytorch_dl import __version__
from pytorch_dl.building import build_model, choose_device, weightless_model
from pytorch_dl.config import Config
from pytorch_dl.dataset.batching import Special, token_ids_of
from pytorch_dl.dataset.loader import padded_batches
from pytorch_dl.dataset.text_files import TextPair
from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair
from pytorch_dl.errors import CheckpointError, ConfigError, DataError
from pytorch_dl.export import hub, safetensors
from pytorch_dl.export.card import Card, without_paths
from pytorch_dl.export.folder import Origin
from pytorch_dl.files import damage
from pytorch_dl.generation.attention_map import AttentionMap, cross_attention, word_pairs, words_of
from pytorch_dl.generation.constraints import Constraints
from pytorch_dl.generation.generate import generate
from pytorch_dl.generation.hypothesis import Hypothesis, Request
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.models.lowered import PRODUCTS
from pytorch_dl.models.modes import evaluating
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.models.reader import Reader
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.validation import pair_nll


@dataclass(frozen=True)
class Translation:
    """One hypothesis for a line."""

    text: str
    score: float
    """Log-probability, divided as `SearchSettings.length_norm` and `length_penalty` say."""
    log_prob: float
    finished: bool
    """False: it reached the length limit before its end."""
    source_cut: bool
    """True: the source was longer than the model reads, and only its beginning was translated."""
    tokens: list[str]
    """What the model wrote, its end mark included."""
    token_ids: list[int]
    """Their ids."""
    token_log_probs: list[float]
    """Log-probability of each token."""


class Translator:
    """A model with its tokenizers.

    `precision` is that of the matrix products in translating: fp32, bf16 or int8. With `cuda_graphs` the steps of
    decoding are recorded on the GPU and replayed, for one thread at a time. A model whose weights change after this is
    to have `reads_as_trained`, so that what is read out is the model itself; it goes with neither of the two. `run` is
    the folder that it is from.
    """

    def __init__(
        self,
        model: OptimizedTransformer,
        tokenizers: TokenizerPair,
        *,
        max_tokens_per_batch: int = 4096,
        precision: str = "fp32",
        cuda_graphs: bool = False,
        reads_as_trained: bool = False,
        run: Path | None = None,
    ) -> None:
        if precision not in PRODUCTS:
            raise ConfigError(f"unknown precision {precision!r}", fix=f"give one of {', '.join(PRODUCTS)}")
        if precision == "int8" and next(model.parameters()).is_cuda:
            raise ConfigError("the precision int8 is for CPUs", fix="give bf16, or the device cpu")
        assert not (reads_as_trained and (cuda_graphs or precision != "fp32")), "a model in training is read as it is"
        if cuda_graphs and not next(model.parameters()).is_cuda:
            raise ConfigError("CUDA graphs need a GPU, and the model is on the CPU", fix="leave out cuda_graphs")
        self.model, self.tokenizers, self.max_tokens_per_batch, self.run = model, tokenizers, max_tokens_per_batch, run
        self.reader: OptimizedTransformer | Reader = model
        if not reads_as_trained:
            self.reader = Reader(model, precision=precision, recorded=cuda_graphs)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: str = "auto", precision: str = "fp32") -> "Translator":
        """Load the folder of that name, where there is one, else the repository ORG/NAME or ORG/NAME@REVISION."""
        place = name if hub.is_on_hub(name) or Path(name).is_dir() else f"{hub.PREFIX}{name}"
        return load(place, device=device, precision=precision)

    def save_pretrained(self, folder: str | Path, *, config: Config | None = None) -> None:
        """Write the model as an export in safetensors with a model card, naming no path of this machine.

        The configuration is that of its run; of a model that is from none, it must be given.
        """
        self._write(Path(folder), name=Path(folder).resolve().name, config=config)

    def push_to_hub(
        self, name: str, *, private: bool | None = None, token: str | None = None, config: Config | None = None
    ) -> str:
        """Put the same into the repository ORG/NAME, which is made if need be; returns its address."""
        hub.require_library()
        name = name.removeprefix(hub.PREFIX)
        with tempfile.TemporaryDirectory(prefix="pytorch-dl-hub-") as scratch:
            self._write(Path(scratch) / "model", name=name, config=config)
            return hub.put(Path(scratch) / "model", name, private=private, token=token)

    def read_config(self) -> Config:
        """The configuration of the run that it is from."""
        if not self.run:
            raise ConfigError("the model is from no run, and its configuration is not known", fix="give config=")
        return RunFolder(self.run).read_config()

    def _write(self, folder: Path, *, name: str, config: Config | None) -> None:
        config = config or self.read_config()
        card = Card.of(name, config, RunFolder(self.run).read_report() if self.run else {})
        origin = Origin(self.run.resolve().name if self.run else "a model in Python", __version__, card)
        safetensors.export(self.model, self.tokenizers, without_paths(config), folder, origin=origin)

    def translate(
        self, lines: Sequence[str], *, beam_size: int | None = None, length_penalty: float | None = None
    ) -> list[str]:
        """The best translation of each line, in order; a blank line has a blank one."""
        given = {"beam_size": beam_size, "length_penalty": length_penalty}
        given = {name: value for name, value in given.items() if value is not None}
        settings = SearchSettings(**given, scored=False)  # type: ignore[arg-type]
        return [best[0].text for best in self.hypotheses(lines, settings)]

    def hypotheses(
        self,
        lines: Sequence[str],
        settings: SearchSettings,
        *,
        constraints: Sequence[Constraints] | None = None,
        first_number: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Translation]]:
        """The n best translations of each line with their scores, best first; `progress` counts lines.

        `constraints` are given for each line, if at all. Samples of a line are a function of the seed and of its
        number, counted from `first_number`.
        """
        tgt, wishes = self.tokenizers.tgt, constraints or [Constraints()] * len(lines)
        sources = [
            ids if line.strip() else []
            for line, ids in zip(lines, self.tokenizers.src.encode_batch(lines), strict=True)
        ]
        requests = [
            wish.request(source, tgt, number=number)
            for number, (wish, source) in enumerate(zip(wishes, sources, strict=True), first_number)
        ]
        found = self._generate(requests, settings, progress)
        while broken := _broken(found, wishes, requests, tgt):
            for place, run in broken.items():
                requests[place] = replace(requests[place], banned=(*requests[place].banned, run))
            again = self._generate([requests[place] for place in broken], settings, None)
            for place, hypotheses in zip(broken, again, strict=True):
                found[place] = hypotheses
        return [[self._translation(hypothesis) for hypothesis in best] for best in found]

    def _generate(
        self, requests: Sequence[Request], settings: SearchSettings, progress: Callable[[int], None] | None
    ) -> list[list[Hypothesis]]:
        tgt = self.tokenizers.tgt
        with evaluating(self.model):
            return generate(
                self.reader,
                requests,
                settings,
                pad_id=tgt.pad_id,
                bos_id=tgt.bos_id,
                eos_id=tgt.eos_id,
                banned_ids=[tgt.unk_id],
                max_positions=self.model.max_seq_len,
                max_tokens_per_batch=self.max_tokens_per_batch,
                device=next(self.model.parameters()).device,
                progress=progress,
            )

    def _translation(self, found: Hypothesis) -> Translation:
        tgt = self.tokenizers.tgt
        ids = [*found.ids, *[tgt.eos_id] * found.finished]
        ids = ids if math.isnan(found.score) else ids[: len(found.token_log_probs)]  # none for a blank line
        return Translation(
            tgt.decode(found.ids),
            found.score,
            found.log_prob,
            found.finished,
            found.source_cut,
            [tgt.token(id) for id in ids],
            ids,
            found.token_log_probs,
        )

    def attention(self, line: str, target: Translation | Sequence[int]) -> AttentionMap:
        """Where the model looked in a line while it wrote a target: a translation, or ids with their end mark.

        The mean over the heads of all layers, in fp32 whatever the precision of translating.
        """
        return self.attention_maps([line], [target])[0]

    def source_pieces(self, line: str) -> list[str]:
        """What the model reads of a line, in readable form, its end mark included."""
        src = self.tokenizers.src
        ids = src.encode(line)[: self.model.max_seq_len - 1]
        return [src.piece(id) for id in (*ids, src.eos_id)]

    def target_pieces(self, translation: Translation) -> list[str]:
        """What the model wrote, likewise."""
        return [self.tokenizers.tgt.piece(id) for id in translation.token_ids]

    def attention_maps(
        self, lines: Sequence[str], targets: Sequence[Translation | Sequence[int]]
    ) -> list[AttentionMap]:
        """The map of each line and its target."""
        src, tgt = self.tokenizers.src, self.tokenizers.tgt
        longest = self.model.max_seq_len
        sources = [[*ids[: longest - 1], src.eos_id] for ids in src.encode_batch(lines)]
        written = [target.token_ids if isinstance(target, Translation) else list(target) for target in targets]
        for ids in written:
            if len(ids) > longest or any(not 0 <= id < tgt.vocab_size for id in ids):
                raise ConfigError(
                    f"a target of {len(ids)} ids up to {max(ids)} is not this model's",
                    fix=f"give at most {longest} ids below {tgt.vocab_size}",
                )
        weights = cross_attention(self.model, sources, written, bos_id=tgt.bos_id, max_tokens=self.max_tokens_per_batch)
        return [
            AttentionMap([src.piece(id) for id in source], [tgt.piece(id) for id in ids], rows.tolist())
            for source, ids, rows in zip(sources, written, weights, strict=True)
        ]

    def word_alignment(self, line: str, target: Translation, attention: AttentionMap) -> list[tuple[int, int]]:
        """(source word, target word), counted from 0, for each word of a translation; words lie between spaces."""
        sources = words_of(line, self.tokenizers.src.spans(line)[: self.model.max_seq_len - 1])
        targets = words_of(target.text, self.tokenizers.tgt.decoded_spans(target.token_ids))
        return word_pairs(attention.weights, [*sources, None], targets)

    def negative_log_likelihood(self, pairs: Sequence[TextPair]) -> tuple[list[float], list[int]]:
        """What the model gives the target of each pair: the sum over its tokens, in nats, and the number of tokens.

        Pairs that are longer than the model reads are left out: they have 0 tokens.
        """
        src, tgt = self.tokenizers.src, self.tokenizers.tgt
        src_ids = token_ids_of(src.encode_batch([pair.src for pair in pairs]))
        tgt_ids = token_ids_of(tgt.encode_batch([pair.tgt for pair in pairs]))
        longest = np.maximum(np.diff(src_ids.offsets), np.diff(tgt_ids.offsets)) + 1
        kept = np.flatnonzero(longest <= self.model.max_seq_len)
        if not len(kept):
            raise DataError(
                f"all {len(pairs):,} pairs are longer than the model reads, {self.model.max_seq_len} tokens",
                fix="shorten them, or train with a larger model.max_seq_len",
            )
        loader = padded_batches(
            src_ids,
            tgt_ids,
            Special(tgt.pad_id, tgt.bos_id, tgt.eos_id),
            kept=kept,
            vocab_sizes=(src.vocab_size, tgt.vocab_size),
            max_tokens=self.max_tokens_per_batch,
        )
        with evaluating(self.model):
            nll, num_tokens = pair_nll(self.model, loader, pairs=len(pairs))
        return nll.tolist(), [int(number) for number in num_tokens]


def _broken(
    found: Sequence[Sequence[Hypothesis]],
    wishes: Sequence[Constraints],
    requests: Sequence[Request],
    tokenizer: Tokenizer,
) -> dict[int, tuple[int, ...]]:
    """Lines with an output that holds a banned text, and the tokens by which it does, which nothing bans yet."""
    runs = {}
    for place, (best, wish, request) in enumerate(zip(found, wishes, requests, strict=True)):
        broken = (wish.broken(hypothesis.ids, tokenizer) for hypothesis in best) if wish.banned else ()
        if run := next((run for run in broken if run and run not in request.banned), None):
            runs[place] = run
    return runs


def load(run: str | Path, *, device: str = "auto", precision: str = "fp32", cuda_graphs: bool = False) -> Translator:
    """Load the finished model of a run folder, or hf://ORG/NAME; of an unfinished run, the best checkpoint so far.

    `precision` is that of the matrix products in translating: fp32, bf16 or int8. `cuda_graphs` records the steps of
    decoding on a GPU.
    """
    folder = RunFolder(hub.local_folder(run))
    config = folder.read_config()
    place = choose_device(device)
    config.system.device = "cpu"  # where the weights come to first
    tokenizers = TokenizerPair.load(folder.tokenizer)
    weights, where = _weights(folder)
    _require_size(config, tokenizers, weights, where=where)
    with torch.random.fork_rng(devices=[]):  # the weights that it begins with are not for keeps
        model = build_model(config, tokenizers)
    ckpt.load_weights(model, weights, where=where)
    return Translator(model.to(place).eval(), tokenizers, precision=precision, cuda_graphs=cuda_graphs, run=folder.path)


def _require_size(
    config: Config, tokenizers: TokenizerPair, weights: Mapping[str, torch.Tensor], *, where: str
) -> None:
    """Compare before memory is taken: a configuration may ask for any, and each layer has a tensor."""
    layers = config.model.num_encoder_layers + config.model.num_decoder_layers
    if layers > len(weights):
        raise CheckpointError(
            f"has {len(weights):,} tensors, too few for {layers:,} layers",
            where=where,
            fix="use the configuration it was trained with",
        )
    ckpt.require_fit(weightless_model(config, tokenizers), weights, where=where)


def _weights(folder: RunFolder) -> tuple[dict[str, torch.Tensor], str]:
    if folder.is_finished:
        return ckpt.read_tensors(folder.model / ckpt.MODEL), str(folder.model)
    go_on = f"go on with `pytorch-dl resume {folder.path}`"
    if folder.model.exists():
        raise CheckpointError(str(damage(folder.model)), where=str(folder.model), fix=go_on)
    newest = ckpt.newest_valid(folder.checkpoints, lambda _: None)
    if newest is None:
        raise CheckpointError("the run has no trained model yet", where=str(folder.path), fix=go_on)
    state = ckpt.read_train_state(newest)
    return ckpt.weights_of(folder.checkpoints, state.best_step or state.step), str(folder.checkpoints)
