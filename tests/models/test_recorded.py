"""Steps in buffers of fixed shapes against steps without: what a CUDA graph would replay, here done again each time."""

import pytest
import torch
from small_models import VOCAB, small

from pytorch_dl.errors import ConfigError
from pytorch_dl.generation import Request, SearchSettings, generate
from pytorch_dl.models import recorded
from pytorch_dl.models.reader import Reader
from pytorch_dl.models.recorded import Recordings, Size
from pytorch_dl.models.transformer_blocks import TransformerDecoderLayer

pytestmark = pytest.mark.usefixtures("float64")


def recorded_reader(model) -> Reader:
    reader = Reader(model)
    reader.recordings = Recordings(reader.decoder, record=lambda step: step)
    return reader


def search(reader: Reader, sources: list[list[int]], *, beam_size: int) -> list:
    settings = SearchSettings(beam_size=beam_size, max_length_ratio=1.0, max_length_offset=3)
    found = generate(
        reader,
        [Request(source) for source in sources],
        settings,
        pad_id=0,
        bos_id=2,
        eos_id=3,
        banned_ids=[],
        max_positions=32,
        max_tokens_per_batch=150 * beam_size,
        device="cpu",
    )
    return [[(best.ids, pytest.approx(best.score, rel=1e-9)) for best in every] for every in found]


def some_sources(count: int) -> list[list[int]]:
    lengths = torch.randint(1, 20, (count,)).tolist()
    return [torch.randint(4, VOCAB, (length,)).tolist() for length in lengths]


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2, "positions": "learned", "norm_first": False}], ids=str)
def test_searches_find_the_same_while_sentences_come_and_go(beam_size, changes) -> None:
    model, sources = small(**changes).eval(), some_sources(60)
    expected = search(Reader(model), sources, beam_size=beam_size)
    reader = recorded_reader(model)
    assert search(reader, sources, beam_size=beam_size) == expected
    assert search(reader, sources[::-1], beam_size=beam_size) == expected[::-1], "buffers of other searches"
    assert 1 < len(reader.recordings._kept) <= recorded.MOST_RECORDINGS, "sizes are rounded up, and a few are kept"


@torch.no_grad()
def test_two_searches_may_take_turns_in_one_recording() -> None:
    model = small().eval()
    plain, reader = Reader(model), recorded_reader(model)
    sources = [torch.randint(1, VOCAB, (3, 6)), torch.randint(1, VOCAB, (5, 9))]
    caches = [(plain.start_decoding(src), reader.start_decoding(src)) for src in sources]
    for _ in range(4):
        for src, (expected, read) in zip(sources, caches, strict=True):
            tokens = torch.randint(1, VOCAB, (len(src), 1))
            torch.testing.assert_close(reader.decode_step(tokens, read), plain.decode_step(tokens, expected))
    assert len(reader.recordings._kept) == 1


@torch.no_grad()
def test_a_recording_is_used_until_the_cache_changes_its_shape() -> None:
    reader, steps = Reader(small().eval()), []
    recordings = reader.recordings = Recordings(
        reader.decoder, record=lambda step: lambda: (steps.append(step), step())[1]
    )
    cache = reader.start_decoding(torch.randint(1, VOCAB, (9, 6)), beam_size=2)
    tokens = torch.full((9, 2), 5)
    reader.decode_step(tokens, cache)
    place = cache.past[0].data_ptr()
    reader.decode_step(tokens, cache)
    assert cache.past[0].data_ptr() == place == next(iter(recordings._kept.values())).past.data_ptr(), (
        "nothing is copied"
    )
    cache.keep(torch.tensor([0, 8]))
    reader.decode_step(tokens[:2], cache)
    assert [size.sentences for size in recordings._kept] == [16, 8] and len(steps) == 3
    assert Size.of(cache) == (8, 2, 128, 16)


@torch.no_grad()
def test_a_cache_that_is_tidied_comes_back_into_its_recording() -> None:
    model = small().eval()
    plain, reader = Reader(model), recorded_reader(model)
    src = torch.randint(1, VOCAB, (3, 6))
    expected, read = plain.start_decoding(src, beam_size=3), reader.start_decoding(src, beam_size=3)
    for _ in range(30):
        tokens = torch.randint(1, VOCAB, (3, 3))
        torch.testing.assert_close(reader.decode_step(tokens, read), plain.decode_step(tokens, expected))
        for cache in (expected, read):
            cache.reorder(torch.ones(3, 3, dtype=torch.long))
    assert len(reader.recordings._kept) == 1


def test_layers_of_a_user_s_own_are_refused() -> None:
    class MyLayer(TransformerDecoderLayer):
        """Not known."""

    with pytest.raises(ConfigError, match="has others"):
        Reader(small(decoder_layer=MyLayer), recorded=True)
