"""Every shape of model that the config can express, in CTranslate2: the same numbers, in float32 and in int8."""

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from export_models import CHOICES, TOKENIZERS, Choice, all_choices, of_choice, pairwise_choices, tiny, tokenizer
from tokenizers import models, pre_tokenizers

from pytorch_dl.config.model_config import ModelConfig
from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair
from pytorch_dl.dataset.tokenizer_folder import ROLES, Definition
from pytorch_dl.errors import CheckpointError, ConfigError
from pytorch_dl.export import ctranslate2 as exporter
from pytorch_dl.export.ctranslate2 import CTranslate2Engine, convert, export
from pytorch_dl.export.folder import Origin
from pytorch_dl.export.pairs import Pairs, random_pairs
from pytorch_dl.export.parity import Reference, require_exact
from pytorch_dl.files import damage

ctranslate2 = pytest.importorskip("ctranslate2")
SHARED = TOKENIZERS["shared"]
ORIGIN = Origin("runs/mine", "0.1.0")
INT8_TOLERANCE = 0.1  # nats, in the mean, for tiny models of random weights


def check(choice: Choice, folder: Path, *, seed: int) -> None:
    model, pair = of_choice(choice, seed=seed)
    pairs = random_pairs(pair, max_seq_len=model.max_seq_len, why="test", count=4, seed=seed)
    reference = Reference(model, pair, pairs)
    convert(model, pair, folder)
    require_exact(reference.compare(CTranslate2Engine(folder, pair, compute_type="float32")), engine=str(choice))
    convert(model, pair, folder, quantization="int8")
    quantized = reference.compare(CTranslate2Engine(folder, pair, compute_type="default"))
    assert 0 < quantized.mean < INT8_TOLERANCE, (choice, quantized)


@pytest.mark.parametrize("number", range(len(pairwise_choices())))
def test_any_two_settings_together_are_exact(number: int, tmp_path: Path) -> None:
    check(pairwise_choices()[number], tmp_path / "out", seed=number)


@pytest.mark.slow
def test_all_settings_together_are_exact(tmp_path: Path) -> None:
    for number, choice in enumerate(all_choices()):
        check(choice, tmp_path / "out", seed=number)
    print(f"{number + 1:,} models, each in float32 and int8")
    assert number + 1 == 4320


def test_the_matrix_has_every_setting_that_changes_what_a_model_computes() -> None:
    alike = {"d_model", "n_heads", "num_encoder_layers", "num_decoder_layers", "tie_embeddings", "max_seq_len"}
    training = {"dropout", "attention_dropout", "use_checkpointing", "activation_budget", "pad_token_id"}
    assert set(ModelConfig.model_fields) == ({*CHOICES} - {"vocabularies", "depths"}) | alike | training
    for name in ("activation", "norm_type", "positions", "attention"):
        assert set(CHOICES[name]) == set(ModelConfig.model_fields[name].annotation.__args__)
    choices = pairwise_choices()
    assert 20 <= len(choices) <= 40
    assert all({choice[name] for choice in choices} == {*CHOICES[name]} for name in CHOICES)


def by_hand(tokens: list[str], specials: tuple[str, ...], *, gap: int = 0) -> Tokenizer:
    """A tokenizer with these tokens for ids, four special ones first; `gap` ids are left out behind those."""
    names = [*specials, *[None] * gap, *tokens]
    vocabulary = {name: number for number, name in enumerate(names) if name is not None}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=specials[3]))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return Tokenizer(Definition(backend.to_str(), dict(zip(ROLES, specials, strict=True))), where="test")


ODD = [
    " ",
    "\n",
    "\r",
    "\t",
    "\x00",
    "\u2028",
    "\u00a0",
    "💥",
    '"',
    "\\",
    "</s>2",
    "<0x0A>",
    "a b",
    "\ufeff",
    "e\u0301",
]
PLAIN = ("<pad>", "<s>", "</s>", "<unk>")
TEXT = "ein Bär läuft, zwei Bären laufen\n" * 20
VOCABULARIES: dict[str, tuple[Tokenizer, Tokenizer]] = {
    "byte": (tokenizer("byte"),) * 2,
    "char": (tokenizer("char", "日本語 ñ 💥\n"),) * 2,
    "bpe": (tokenizer("bpe", TEXT, vocab_size=290),) * 2,
    "unigram": (tokenizer("unigram", TEXT, vocab_size=290),) * 2,
    "odd tokens": (by_hand(ODD, PLAIN),) * 2,
    "a gap in the ids": (by_hand(ODD, PLAIN, gap=3),) * 2,
    "other names": (by_hand(ODD, ("[PAD]", "[B]", "[E]", "[U]")),) * 2,
    "other names on each side": (by_hand(ODD, ("[PAD]", "[B]", "[E]", "[U]")), by_hand(ODD[:9], PLAIN)),
    "names of the other side": (by_hand(["x", *ODD], PLAIN), by_hand([*ODD], ("</s>", "<unk>", "<s>", "<pad>"))),
}


@pytest.mark.parametrize("sides", VOCABULARIES.values(), ids=VOCABULARIES)
def test_every_token_of_a_vocabulary_arrives_as_itself(sides: tuple[Tokenizer, Tokenizer], tmp_path: Path) -> None:
    pair = TokenizerPair(*sides)
    model = tiny(pair, tie_embeddings="all" if pair.shared else "none", max_seq_len=8)
    convert(model, pair, tmp_path / "out")
    places = range(max(side.vocab_size for side in sides))
    src, tgt = ([[max(id % side.vocab_size, 3)] * 2 for id in places] for side in sides)
    reference = Reference(model, pair, Pairs(src, tgt, "every token"))
    require_exact(reference.compare(CTranslate2Engine(tmp_path / "out", pair, compute_type="float32")), engine="it")


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rope"])
def test_a_model_reads_and_writes_up_to_its_last_position(positions: str, tmp_path: Path) -> None:
    model = tiny(SHARED, positions=positions, max_seq_len=10)
    pairs = Pairs([[5, 6, 7, 8, 9, 10, 11, 12, 13], [7]], [[9, 8, 7, 6, 5, 4, 5, 6, 7], []], "by hand")
    convert(model, SHARED, tmp_path / "out")
    engine = CTranslate2Engine(tmp_path / "out", SHARED, compute_type="float32")
    reference = Reference(model, SHARED, pairs)
    assert reference.limit == 10
    require_exact(reference.compare(engine), engine="it")
    if positions == "rope":
        assert len(engine.score(Pairs([[5] * 30], [[6] * 30], "too long"))[0]) == 31
    else:
        with pytest.raises(RuntimeError, match="No position encodings are defined for positions >= 10"):
            engine.score(Pairs([[5] * 10], [[6]], "too long"))


def test_pad_begin_and_unknown_never_come_out(tmp_path: Path) -> None:
    model = tiny(SHARED, tie_embeddings="none", seed=3)
    special = SHARED.tgt
    model.output.weight.data[[special.pad_id, special.bos_id, special.unk_id]] *= 20
    pairs = random_pairs(SHARED, max_seq_len=24, why="test", count=16)
    convert(model, SHARED, tmp_path / "out")
    reference = Reference(model, SHARED, pairs)
    parity = reference.compare(CTranslate2Engine(tmp_path / "out", SHARED, compute_type="float32"))
    require_exact(parity, engine="it")
    assert parity.equal == 16
    assert len({id for ids in reference.outputs for id in ids}) > 3


QUANTIZATIONS = ["int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16", "float32"]


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_an_export_is_compared_and_says_so(
    quantization: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny(SHARED)
    pairs = random_pairs(SHARED, max_seq_len=24, why="test")
    found = export(model, SHARED, tmp_path / "out", pairs=pairs, quantization=quantization, origin=ORIGIN)
    assert list(found) == [*dict.fromkeys(["float32", quantization])]
    assert found["float32"].largest < 1e-4
    assert found["float32"].equal == found["float32"].pairs == len(pairs)
    assert 0 < found[quantization].mean < INT8_TOLERANCE
    assert capfd.readouterr().err == ""
    assert damage(tmp_path / "out") is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    notes = (tmp_path / "out/README.md").read_text()
    assert all(f"- {name}: {parity}" in notes for name, parity in found.items())
    assert f"Weights: {quantization}. Versions: pytorch-dl 0.1.0" in " ".join(notes.split())


def test_quantized_files_are_small(tmp_path: Path) -> None:
    model = tiny(SHARED, d_model=64)
    sizes = {}
    for quantization in (None, "float16", "int8"):
        convert(model, SHARED, tmp_path / "out", quantization=quantization)
        sizes[quantization] = (tmp_path / "out/model.bin").stat().st_size
    assert sizes[None] > 1.9 * sizes["float16"] > 1.8 * 1.5 * sizes["int8"]


def swapped_heads(spec: Any) -> None:
    weight = spec.decoder.layer[0].attention.linear[1].weight
    weight[:] = weight[::-1].copy()


def one_row(spec: Any) -> None:
    spec.decoder.embeddings.weight[[5, 6]] = spec.decoder.embeddings.weight[[6, 5]]


def other_eps(spec: Any) -> None:
    spec.config.layer_norm_epsilon = 1e-2


def interleaved(spec: Any) -> None:
    spec.encoder.layer[0].self_attention.rotary_interleave = True


def swapped_gate(spec: Any) -> None:
    ff = spec.encoder.layer[0].ffn
    ff.linear_0.weight, ff.linear_0_noact.weight = ff.linear_0_noact.weight, ff.linear_0.weight


def not_a_number(spec: Any) -> None:
    spec.decoder.layer[0].ffn.linear_1.weight[0, 0] = float("nan")


@pytest.mark.parametrize("harm", [swapped_heads, one_row, other_eps, interleaved, swapped_gate, not_a_number])
def test_a_wrong_export_is_refused_and_leaves_nothing(
    harm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = exporter.specification

    def wrong(model: Any) -> Any:
        spec = right(model)
        harm(spec)
        return spec

    model, pairs = tiny(SHARED), random_pairs(SHARED, max_seq_len=24, why="test")
    export(model, SHARED, tmp_path / "old", pairs=pairs, origin=ORIGIN)
    before = (tmp_path / "old/model.bin").read_bytes()
    monkeypatch.setattr(exporter, "specification", wrong)
    for out in ("old", "new"):
        with pytest.raises(CheckpointError, match=r"does not compute what the model does, and is not kept: .* 0\.001"):
            export(model, SHARED, tmp_path / out, pairs=pairs, origin=ORIGIN, quantization="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old/model.bin").read_bytes() == before


def test_a_ruined_quantization_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = exporter._write

    def wrong(model: Any, pair: Any, folder: Path, quantization: str | None) -> None:
        right(tiny(SHARED, seed=9, d_model=32) if quantization else model, pair, folder, quantization)

    monkeypatch.setattr(exporter, "_write", wrong)
    pairs = random_pairs(SHARED, max_seq_len=24, why="test")
    with pytest.raises(CheckpointError, match=r"quantized, log-probabilities differ by [\d.]+ in the mean, .* 0\.5"):
        export(tiny(SHARED), SHARED, tmp_path / "out", pairs=pairs, origin=ORIGIN, quantization="int8")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_quantization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown quantization 'int4'\. Fix: give one of int8, int8_float32, "):
        convert(tiny(SHARED), SHARED, tmp_path / "out", quantization="int4")


def test_tokenizers_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the model has 260 target embeddings, but the target vocabulary 266 tokens"):
        convert(tiny(SHARED), TOKENIZERS["two"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_way_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ctranslate2", None)
    with pytest.raises(ConfigError, match=r"ctranslate2 is not installed\. Fix: pip install 'pytorch-dl\[ct2\]'"):
        convert(tiny(SHARED), SHARED, tmp_path / "out")
