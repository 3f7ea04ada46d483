"""What one model takes over of another: compared row by row with what the tokens say, and by what both then compute."""

import itertools
import json
from collections.abc import Iterable

import pytest
import torch
from stores import Pairs
from tiny import tiny_model

from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair, build_tokenizers
from pytorch_dl.dataset.tokenizer_folder import Definition
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.transfer import OUT, SRC, TGT, Taken, could_fit, transfer

TIES = ("all", "decoder", "none")


def characters(src: str, tgt: str | None = None) -> TokenizerPair:
    """Tokenizers with these characters, in the order of their ids, one for both sides or one for each."""

    def pairs(letters: str) -> Pairs:
        return Pairs([(letter * (len(letters) - place), "a") for place, letter in enumerate(letters)])

    def made(letters: str) -> Tokenizer:
        return build_tokenizers([pairs(letters)], name="char", vocab_size=400, shared=True).src

    first = made(src)
    return TokenizerPair(first, first if tgt is None else made(tgt))


def model_for(tokenizers: TokenizerPair, *, seed: int, **changes: object) -> OptimizedTransformer:
    sizes = {"src_vocab_size": tokenizers.src.vocab_size, "tgt_vocab_size": tokenizers.tgt.vocab_size}
    return tiny_model(seed=seed, **{"dropout": 0.0, **sizes, **changes}).eval()


def give(other: OptimizedTransformer, of: TokenizerPair, model: OptimizedTransformer, tokenizers: TokenizerPair):
    return transfer(model, tokenizers, ckpt.model_weights(other), of)


def how(found) -> dict[str, tuple[int, int]]:
    """(taken, of) of each tensor that was not taken whole."""
    return {one.name: (one.taken, one.size) for one in found.tensors if one.taken < one.size}


def logits(model: OptimizedTransformer, tokenizers: TokenizerPair, src: str, tgt: str) -> dict[str, float]:
    """Of each token, by its name, after the text; the specials by their role."""
    side = tokenizers.tgt
    out = model(
        torch.tensor([[*tokenizers.src.encode(src), tokenizers.src.eos_id]]),
        torch.tensor([[side.bos_id, *side.encode(tgt)]]),
    )[0, -1]
    return {side.token(id): float(value) for id, value in enumerate(out)}


def rows_by_token(weight: torch.Tensor, tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    return {tokenizer.token(id): row for id, row in enumerate(weight)}


@torch.no_grad()
@pytest.mark.parametrize(("here", "there"), [*itertools.product(TIES, TIES)])
def test_the_same_tokens_with_other_ids_compute_the_same(here: str, there: str) -> None:
    before, now = characters("äöüß", "éèçñ"), characters("ßüöä", "ñéçè")
    if "all" in (here, there):
        before, now = characters("äöüß"), characters("ßüöä")
    other = model_for(before, seed=1, tie_embeddings=there)
    model = model_for(now, seed=2, tie_embeddings=here)
    found = give(other, before, model, now)
    assert how(found) == {}
    assert before.src.ids() != now.src.ids()
    text = ("äb ß", "üö" if "all" in (here, there) else "éñ")
    if TIES.index(here) >= TIES.index(there):  # no less free than the other one: nothing was lost
        assert logits(model, now, *text) == pytest.approx(logits(other, before, *text), abs=1e-5)
        assert found.unused == []
        return
    weights, own = ckpt.model_weights(other), ckpt.model_weights(model)
    theirs = rows_by_token(weights.get(OUT, weights.get(TGT)), before.tgt)
    ours = rows_by_token(own.get(TGT, own[SRC]), now.tgt)
    assert all(torch.equal(ours[token], theirs[token]) for token in theirs)
    assert set(found.unused) == weights.keys() - own.keys() - ({TGT} if there == "decoder" else {OUT})


@torch.no_grad()
def test_tokens_that_only_one_vocabulary_has_keep_their_rows() -> None:
    before, now = characters("äöü"), characters("xéüäà")
    other, model = model_for(before, seed=1), model_for(now, seed=2)
    first = model.src_embedding.weight.clone()
    found = give(other, before, model, now)
    theirs, ours = (rows_by_token(one.src_embedding.weight, side.src) for one, side in ((other, before), (model, now)))
    common = [token for token in ours if token in theirs]
    assert len(common) == len(ours) - 2 == len(theirs) - 1
    assert all(torch.equal(ours[token], theirs[token]) for token in common)
    kept = rows_by_token(first, now.src)
    new = [token for token in ours if token not in theirs]
    assert all(torch.equal(ours[token], kept[token]) for token in new)
    width, rows = 16, len(ours)
    assert how(found) == {SRC: ((rows - 2) * width, rows * width)}
    note = f"{rows - 2} of {rows} rows, of tokens that both vocabularies have"
    assert list(found.lines()) == [f"taken in part: {SRC}: {note}"]
    assert found.summary() == (
        f"{len(found.tensors) - 1} tensors whole, 1 in part, 0 not: {found.taken:,} of "
        f"{model.num_parameters():,} numbers; 0 of the other model have no place"
    )
    assert found.taken == model.num_parameters() - 2 * width


def renamed(tokenizer: Tokenizer, names: dict[str, str]) -> Tokenizer:
    """The same with other special tokens."""
    text = tokenizer.definition.json
    for old, new in names.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    return Tokenizer(
        Definition(text, {role: names[token] for role, token in tokenizer.definition.specials.items()}), where="test"
    )


@torch.no_grad()
def test_special_tokens_are_told_by_their_role() -> None:
    before = characters("äö")
    specials = list(before.src.definition.specials.values())
    swapped = renamed(before.src, dict(zip(specials, (f"[{name}]" for name in specials), strict=True)))
    now = TokenizerPair(swapped, swapped)
    other, model = model_for(before, seed=1), model_for(now, seed=2)
    assert how(give(other, before, model, now)) == {}
    for role in ("pad_id", "bos_id", "eos_id", "unk_id"):
        mine, theirs = getattr(swapped, role), getattr(before.src, role)
        assert torch.equal(model.src_embedding.weight[mine], other.src_embedding.weight[theirs])


@torch.no_grad()
def test_the_sides_of_a_tied_matrix_fill_each_other() -> None:
    """From two vocabularies to one: the target's rows are the output's, and the source gives what else there is."""
    before, now = characters("äö", "éä"), characters("äöéñ")
    other = model_for(before, seed=1, tie_embeddings="decoder")
    model = model_for(now, seed=2, tie_embeddings="all")
    found = give(other, before, model, now)
    ours = rows_by_token(model.src_embedding.weight, now.src)
    src = rows_by_token(other.src_embedding.weight, before.src)
    tgt = rows_by_token(other.tgt_embedding.weight, before.tgt)
    for token, row in ours.items():
        if token in tgt or token in src:
            assert torch.equal(row, tgt[token] if token in tgt else src[token])
    rows = len(ours)
    assert how(found) == {SRC: ((rows - 1) * 16, rows * 16)}
    assert f"{rows - 1} of {rows} rows from {TGT} and {SRC}, of tokens" in "\n".join(found.lines())


def test_layers_that_both_have_are_taken() -> None:
    same = characters("äö")
    for here, there in ((2, 1), (1, 2)):
        other = model_for(same, seed=1, num_encoder_layers=there)
        model = model_for(same, seed=2, num_encoder_layers=here)
        before = {name: weight.clone() for name, weight in ckpt.model_weights(model).items()}
        found = give(other, same, model, same)
        theirs, ours = ckpt.model_weights(other), ckpt.model_weights(model)
        assert all(torch.equal(ours[name], theirs.get(name, before[name])) for name in ours)
        absent = [name for name in ours if name not in theirs]
        assert list(how(found)) == absent
        assert found.unused == [name for name in theirs if name not in ours]
        assert bool(absent) == (here > there)
        lines = [f"not taken: {name}: the other model has no such tensor" for name in absent]
        assert list(found.lines()) == lines + [f"without a place: {name} of the other model" for name in found.unused]


def test_tensors_of_another_shape_are_left_alone_and_said() -> None:
    same = characters("äö")
    other, model = model_for(same, seed=1, d_ff=64), model_for(same, seed=2, d_ff=96)
    before = {name: weight.clone() for name, weight in ckpt.model_weights(model).items()}
    found = give(other, same, model, same)
    theirs, ours = ckpt.model_weights(other), ckpt.model_weights(model)
    other_shape = [name for name in ours if ours[name].shape != theirs[name].shape]
    assert list(how(found)) == other_shape
    assert other_shape
    assert all(torch.equal(ours[name], before[name]) for name in other_shape)
    first = other_shape[0]
    shapes = f"its shape is {tuple(ours[first].shape)}, that of the other model {tuple(theirs[first].shape)}"
    assert next(found.lines()) == f"not taken: {first}: {shapes}"


def test_of_a_model_of_another_width_nothing_is_taken() -> None:
    before, now = characters("äö"), characters("öäü")
    other, model = model_for(before, seed=1, d_model=32), model_for(now, seed=2)
    kept = {name: weight.clone() for name, weight in ckpt.model_weights(model).items()}
    found = give(other, before, model, now)
    assert found.taken == 0
    assert all(torch.equal(weight, kept[name]) for name, weight in ckpt.model_weights(model).items())
    assert f"not taken: {SRC}: its shape is (263, 16), that of the other model (262, 32)" in list(found.lines())
    assert not could_fit(ckpt.model_weights(model), ckpt.model_weights(other))


@pytest.mark.parametrize("changes", [{"num_encoder_layers": 2}, {"d_ff": 96}, {"max_seq_len": 9}, {"d_model": 32}])
def test_whether_anything_could_fit_is_known_without_the_vocabulary(changes: dict[str, int]) -> None:
    same = characters("äö")
    other = model_for(same, seed=1, positions="learned")
    model = tiny_model(src_vocab_size=1, tgt_vocab_size=1, positions="learned", **changes)
    assert could_fit(model.state_dict(), ckpt.model_weights(other)) == ("d_model" not in changes)


@torch.no_grad()
@pytest.mark.parametrize(("here", "there"), [(9, 5), (5, 9)])
def test_learned_positions_are_taken_as_far_as_both_go(here: int, there: int) -> None:
    same = characters("äö")
    other = model_for(same, seed=1, positions="learned", max_seq_len=there)
    model = model_for(same, seed=2, positions="learned", max_seq_len=here)
    before = model.tgt_positions.weight.clone()
    found = give(other, same, model, same)
    both = min(here, there)
    assert torch.equal(model.tgt_positions.weight[:both], other.tgt_positions.weight[:both])
    assert torch.equal(model.tgt_positions.weight[both:], before[both:])
    name = "src_positions.weight"
    partly = [f"taken in part: {name}: 5 of 9 rows, of positions that both models have"] if here > there else []
    assert [line for line in found.lines() if name in line] == partly


def test_it_is_told_as_json() -> None:
    same = characters("äö")
    found = give(model_for(same, seed=1), same, model_for(same, seed=2, num_encoder_layers=2), same)
    told = json.loads(json.dumps(found.to_json()))
    assert told["summary"] == found.summary()
    assert [Taken(**one) for one in told["tensors"]] == list(found.tensors)


def test_ids_are_those_of_each_token() -> None:
    for side in _sides(characters("äöü", "é")):
        assert {side.token(id): id for id in range(side.vocab_size)} == side.ids()


def _sides(pair: TokenizerPair) -> Iterable[Tokenizer]:
    return pair.src, pair.tgt
