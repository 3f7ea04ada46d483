"""Where tokens stand in a text, and how people read them."""

import pytest

from pytorch_dl.dataset.text_pair import TextPair
from pytorch_dl.dataset.tokenizer import build_tokenizers

TEXT = "ab  cd Zoë 日本"


class Stream:
    """A few pairs."""

    name, weight = "memory", 1.0

    def __iter__(self):
        yield from [TextPair(TEXT, TEXT, 1), TextPair("some more words", "noch mehr", 2)] * 10


@pytest.fixture(scope="module", params=["bpe", "unigram", "char", "byte"])
def tokenizer(request):
    return build_tokenizers([Stream()], name=request.param, vocab_size=300, shared=True).src


def test_spans_cover_the_text_in_order(tokenizer):
    ids = tokenizer.encode(TEXT)
    for spans in (tokenizer.spans(TEXT), tokenizer.decoded_spans([*ids, tokenizer.eos_id])[:-1]):
        assert len(spans) == len(ids)
        assert spans == sorted(spans)
        assert {place for start, end in spans for place in range(start, end)} >= {
            place for place, letter in enumerate(TEXT) if letter != " "
        }


def test_pieces_are_readable(tokenizer):
    ids = tokenizer.encode("ab  cd")
    assert "".join(tokenizer.piece(id) for id in ids).strip("▁ ").replace("▁", " ") in ("ab  cd", "ab cd")
    assert tokenizer.piece(tokenizer.eos_id) == tokenizer.token(tokenizer.eos_id)
