"""Pairs of the validation text where there is one, random tokens where there is none, and which of them they are."""

from pathlib import Path

from export_models import TOKENIZERS

from pytorch_dl.config import Config
from pytorch_dl.dataset.text_files import TextPair
from pytorch_dl.export.pairs import COUNT, chosen, pairs_of, random_pairs

SHARED, TWO = TOKENIZERS["shared"], TOKENIZERS["two"]


def config(folder: Path, lines: list[str]) -> Config:
    for name in ("train.tsv", "val.tsv"):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    paths = {"train_data_path": str(folder / "train.tsv"), "val_data_path": str(folder / "val.tsv")}
    return Config().update(data=paths)


def test_pairs_are_of_the_validation_text(tmp_path: Path) -> None:
    found = pairs_of(config(tmp_path, ["ab\tcde", "f\tg"]), SHARED, max_seq_len=8)
    assert found.origin == "pairs of the run's validation text"
    assert [SHARED.src.decode(ids) for ids in found.src] == ["ab", "f"]
    assert [SHARED.tgt.decode(ids) for ids in found.tgt] == ["cde", "g"]


def test_pairs_held_out_of_the_training_text_are_found(tmp_path: Path) -> None:
    settings = config(tmp_path, [f"{number}\t{number}" for number in range(20)])
    settings.data.val_data_path, settings.data.val_split = None, 5
    assert len(pairs_of(settings, SHARED, max_seq_len=8)) == 5


def test_the_longest_pairs_that_fit_are_among_them() -> None:
    sizes = {501: (19, 1), 702: (1, 19), 803: (20, 1)}
    both = [sizes.get(number, (number % 7 + 1, number % 5 + 1)) for number in range(1000)]
    texts = [TextPair("a" * src, "b" * tgt, line) for line, (src, tgt) in enumerate(both, 1)]
    found = chosen(texts, SHARED, max_seq_len=20)  # 19 tokens and an end mark
    assert COUNT <= len(found) <= COUNT + 2
    assert max(map(len, found.src)) == max(map(len, found.tgt)) == 19
    assert len(chosen(texts[:3], SHARED, max_seq_len=20)) == 3


def test_without_a_validation_text_tokens_are_random_and_it_is_said_why(tmp_path: Path) -> None:
    settings = config(tmp_path, ["ab\tcde"])
    too_long = pairs_of(settings, SHARED, max_seq_len=3)
    assert too_long.origin == (
        "random tokens of the vocabulary (all pairs looked at are longer than the model reads, 3 tokens)"
    )
    (tmp_path / "val.tsv").unlink()
    gone = pairs_of(settings, SHARED, max_seq_len=24)
    assert gone.origin.startswith("random tokens of the vocabulary (the validation text cannot be read: ")
    settings.data.val_data_path = None
    none = pairs_of(settings, SHARED, max_seq_len=24)
    assert none.origin == "random tokens of the vocabulary (the run has no validation text)"
    assert len(none) == COUNT


def test_random_pairs_have_ordinary_tokens_of_their_side_in_all_lengths() -> None:
    found = random_pairs(TWO, max_seq_len=12, why="test", count=400)
    for rows, tokenizer in ((found.src, TWO.src), (found.tgt, TWO.tgt)):
        assert {len(row) for row in rows} == set(range(1, 12))
        assert {id for row in rows for id in row} == set(range(4, tokenizer.vocab_size))
    assert random_pairs(TWO, max_seq_len=12, why="test") == random_pairs(TWO, max_seq_len=12, why="test")
    assert max(map(len, random_pairs(TWO, max_seq_len=500, why="test").src)) <= 48
    assert {len(row) for row in random_pairs(TWO, max_seq_len=2, why="test").src} == {1}
