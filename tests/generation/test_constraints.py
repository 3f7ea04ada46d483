"""Wishes in words: what they refuse, and translations of an untrained model that keep to them."""

import re

import pytest
import torch
from tiny_runs import pairs

from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair
from pytorch_dl.dataset.tokenizer_folder import ROLES, Definition
from pytorch_dl.dataset.tokenizer_training import SPECIALS, train
from pytorch_dl.errors import ConfigError
from pytorch_dl.generation.constraints import Constraints, holds
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.translator import Translator

LINES = [src for src, _ in pairs(12)]


def translator(name: str) -> Translator:
    """Writes words of the text at random."""
    backend = train(name, [text for pair in pairs(300) for text in pair], vocab_size=300)
    tokenizer = Tokenizer(Definition(backend.to_str(), dict(zip(ROLES, SPECIALS, strict=True))), where=name)
    torch.manual_seed(3)
    shape = {"d_model": 16, "n_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "max_seq_len": 64}
    sizes = dict.fromkeys(("src_vocab_size", "tgt_vocab_size"), tokenizer.vocab_size)
    model = OptimizedTransformer(**sizes, **shape, tie_embeddings="none", pad_token_id=tokenizer.pad_id)
    allowed = set(tokenizer.encode(" ".join(text for pair in pairs(300) for text in pair))) | {tokenizer.eos_id}
    with torch.no_grad():
        model.output.weight *= 3
        others = [id for id in range(tokenizer.vocab_size) if id not in allowed]
        model.output.weight[others] = 0.0
    return Translator(model.eval(), TokenizerPair(tokenizer, tokenizer))


def written(translator: Translator, constraints: Constraints, **settings) -> list[str]:
    found = translator.hypotheses(
        LINES, SearchSettings(beam_size=6, **settings), constraints=[constraints] * len(LINES)
    )
    return [translation.text for best in found for translation in best]


@pytest.mark.parametrize("name", ["bpe", "unigram", "char", "byte"])
def test_banned_words_never_come_out_however_they_are_spelled(name):
    system = translator(name)
    free = written(system, Constraints(), max_length_ratio=2)
    words = sorted({word for text in free for word in re.findall(r"\w+", text)}, key=lambda w: -" ".join(free).count(w))
    banned = tuple(words[:2])
    kept = written(system, Constraints(banned=banned), max_length_ratio=2)
    assert not any(holds(text, word) for text in kept for word in banned)
    assert sum(a != b for a, b in zip(free, kept, strict=True)) > 0


@pytest.mark.parametrize("name", ["bpe", "char"])
def test_texts_begin_and_hold_what_is_asked_for(name):
    system = translator(name)
    texts = written(system, Constraints(prefix="gh ab", required=("mn kl",)), max_length_offset=40)
    assert all(text.startswith("gh ab") and "mn kl" in text for text in texts)


def test_each_line_has_wishes_of_its_own():
    system = translator("bpe")
    wishes = [Constraints(prefix="ab cd") if number % 3 else Constraints() for number in range(len(LINES))]
    settings = SearchSettings(beam_size=2)
    together = system.hypotheses(LINES, settings, constraints=wishes)
    for number, (line, wish) in enumerate(zip(LINES, wishes, strict=True)):
        assert system.hypotheses([line], settings, constraints=[wish])[0][0].text == together[number][0].text


@pytest.mark.parametrize(
    ("wishes", "problem"),
    [
        ({"banned": ("",)}, "a banned text is blank"),
        ({"required": ("ab", " ")}, "a required text is blank"),
        ({"banned": ("ab",), "prefix": "cd ab"}, "'cd ab' is asked for and holds 'ab', which is banned"),
        ({"banned": ("ab",), "required": ("ab cd",)}, "'ab cd' is asked for and holds 'ab', which is banned"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(wishes, problem):
    with pytest.raises(ConfigError, match=re.escape(problem)):
        Constraints(**wishes)


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("a cat.", "cat", True),
        ("category", "cat", False),
        ("bobcat", "cat", False),
        ("the cat sat", "cat sat", True),
        ("c++ is", "c++", True),
        ("Hütte", "Hütte", True),
        ("Hüttenwirt", "Hütte", False),
    ],
)
def test_a_phrase_stands_in_a_text_as_words_of_their_own(text, phrase, expected):
    assert holds(text, phrase) is expected
