"""From sources to hypotheses: batches, limits and order on a model that copies; exactness on the real Transformer."""

import math

import pytest
import torch
from torch import Tensor

from pytorch_dl.errors import ConfigError
from pytorch_dl.generation.generate import generate
from pytorch_dl.generation.hypothesis import Hypothesis, Request
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.models.optimized_transformer import OptimizedTransformer

PAD, BOS, EOS, UNK = 0, 1, 2, 3
VOCABULARY = 23


class CopyCache:
    def __init__(self, src: Tensor) -> None:
        self.rows = [(row, 0) for row in src.tolist()]  # and how much of it is written

    def reorder(self, beams: Tensor) -> None:
        pass  # what is copied does not depend on the prefix

    def keep(self, sentences: Tensor) -> None:
        self.rows = [self.rows[row] for row in sentences.tolist()]

    def join(self, other: "CopyCache") -> None:
        self.rows += other.rows


class CopyModel:
    """Writes its source, eos included, and notes the batches that it is given and those that it goes on with."""

    training = False

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.steps: list[int] = []

    def start_decoding(self, src: Tensor, *, beam_size: int = 1) -> CopyCache:
        assert torch.is_inference_mode_enabled()
        self.batches.append(src.tolist())
        return CopyCache(src)

    def decode_step(self, tokens: Tensor, cache: CopyCache) -> Tensor:
        self.steps.append(len(cache.rows))
        target = torch.tensor([row[min(place, len(row) - 1)] for row, place in cache.rows])
        cache.rows = [(row, place + 1) for row, place in cache.rows]
        return 20 * torch.nn.functional.one_hot(target, VOCABULARY).float()[:, None].expand(-1, tokens.size(1), -1)

    def project(self, hidden: Tensor) -> Tensor:
        return hidden


def run(model, sources, settings=None, **changes) -> list[list[Hypothesis]]:
    options = {
        "pad_id": PAD,
        "bos_id": BOS,
        "eos_id": EOS,
        "banned_ids": [UNK],
        "max_positions": 64,
        "max_tokens_per_batch": 60,
        "device": "cpu",
    }
    requests = [Request(source, number=number) for number, source in enumerate(sources)]
    return generate(model, requests, settings or SearchSettings(beam_size=2), **(options | changes))


def some_sources(count: int, *, longest: int = 12, seed: int = 0) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=random).tolist()
    return [torch.randint(4, VOCABULARY, (length,), generator=random).tolist() for length in lengths]


@pytest.mark.parametrize("beam_size", [1, 3])
def test_results_stand_in_the_order_of_the_sources(beam_size):
    sources = some_sources(40)
    model = CopyModel()
    results = run(model, sources, SearchSettings(beam_size=beam_size))
    assert [result[0].ids for result in results] == sources
    assert all(result[0].finished and not result[0].source_cut for result in results)


def test_batches_hold_similar_lengths_within_the_token_budget_times_beams():
    sources = [*some_sources(40), [5] * 30]
    model = CopyModel()
    run(model, sources, SearchSettings(beam_size=2))
    assert sorted(row[: row.index(EOS)] for batch in model.batches for row in batch) == sorted(sources)
    assert all(row[row.index(EOS) + 1 :] == [PAD] * (len(row) - row.index(EOS) - 1) for b in model.batches for row in b)
    sizes = [(len(batch), len(batch[0])) for batch in model.batches]
    assert sizes[0] == (
        1,
        31,
    )  # 62 tokens over the beams are more than the budget of 60: it runs alone, nothing is lost
    assert [width for _, width in sizes] == sorted((width for _, width in sizes), reverse=True)
    widths = sorted((len(source) + 1 for source in sources), reverse=True)
    for rows, present in zip(model.steps[1:], model.steps, strict=False):
        assert rows <= max(1, 60 // 2 // widths[-1]), (rows, present)


def test_a_batch_is_filled_again_when_a_quarter_of_it_is_free():
    model = CopyModel()
    sources = [[5] * length for length in range(1, 41)]
    results = run(model, sources, SearchSettings(beam_size=1), max_tokens_per_batch=41 * 8)
    assert [result[0].ids for result in results] == sources
    assert len(model.batches[0]) == 8 and all(len(batch) >= 2 for batch in model.batches[:-1])
    assert sum(model.steps) < 1.3 * sum(len(source) + 1 for source in sources)  # little is done for idle rows
    assert sum(rows >= 6 for rows in model.steps) > len(model.steps) / 2


def test_an_empty_source_has_the_empty_output_without_the_model():
    model = CopyModel()
    empty = [Hypothesis([], 0.0, 0.0, finished=True)]
    assert run(model, [[], []]) == [empty, empty] and model.batches == []
    results = run(model, [[], [7, 8], []])
    assert [results[0], results[2]] == [empty, empty] and results[1][0].ids == [7, 8]
    assert run(model, []) == []


def test_a_source_that_is_too_long_is_cut_before_eos_and_says_so():
    model = CopyModel()
    sources = [[4, 5, 6, 7], [4, 5, 6, 7, 8]]
    whole, cut = run(model, sources, max_positions=5)
    assert sorted(model.batches) == [[[4, 5, 6, 7, EOS], [4, 5, 6, 7, EOS]]]
    assert not whole[0].source_cut and cut[0].source_cut
    assert whole[0].ids == cut[0].ids == [4, 5, 6, 7]


def test_limits_follow_the_source_length_and_the_model():
    settings = SearchSettings(beam_size=1, max_length_ratio=1.5, max_length_offset=2)
    assert [settings.max_length(n) for n in (1, 2, 3)] == [3, 5, 6]
    tight = SearchSettings(beam_size=1, max_length_ratio=0.5, max_length_offset=1)
    short, long = run(CopyModel(), [[4, 5], [4, 5, 6, 7, 8, 9]], tight)
    assert (short[0].ids, short[0].finished) == ([4, 5], False)
    assert (long[0].ids, long[0].finished) == ([4, 5, 6, 7], False)
    [[hypothesis]] = run(CopyModel(), [[4, 5, 6]], SearchSettings(beam_size=1), max_positions=3)
    assert (hypothesis.ids, hypothesis.finished, hypothesis.source_cut) == ([4, 5], True, True)


def test_special_ids_never_come_out():
    results = run(CopyModel(), [[4, UNK, BOS, PAD, 5]], SearchSettings(beam_size=3, n_best=3))
    assert all({PAD, BOS, EOS, UNK}.isdisjoint(hypothesis.ids) for hypothesis in results[0])


def test_eos_may_double_as_padding_or_bos():
    [[hypothesis]] = run(CopyModel(), [[7, 8]], pad_id=EOS, bos_id=EOS, banned_ids=[EOS, UNK])
    assert (hypothesis.ids, hypothesis.finished) == ([7, 8], True)


def test_progress_adds_up_to_the_number_of_sources():
    steps: list[int] = []
    run(CopyModel(), [*some_sources(30), [], []], progress=steps.append)
    assert sum(steps) == 32 and len(steps) > 3


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("beam_size", 0, "at least 1"),
        ("n_best", 0, "at least 1"),
        ("n_best", 6, r"at most beam_size \(5\)"),
        ("length_penalty", -0.5, "from 0 to 10"),
        ("length_penalty", math.nan, "from 0 to 10"),
        ("max_length_ratio", math.inf, "from 0 to 1000"),
        ("max_length_offset", 0, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_told_with_their_value(field, value, expected):
    with pytest.raises(ConfigError, match=f"^{field} is {value}. Fix: set {field} to .*{expected}"):
        SearchSettings(**{field: value})


def test_a_budget_without_room_is_told():
    with pytest.raises(ConfigError, match="max_tokens_per_batch is 0"):
        run(CopyModel(), [[4]], max_tokens_per_batch=0)


def test_a_model_in_training_mode_is_our_bug():
    model = CopyModel()
    model.training = True
    with pytest.raises(AssertionError, match=r"model.eval\(\)"):
        run(model, [[4]])


def make_transformer(seed: int = 0, *, output_scale: float = 3.0) -> OptimizedTransformer:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = OptimizedTransformer(
        src_vocab_size=VOCABULARY,
        tgt_vocab_size=VOCABULARY,
        d_model=16,
        n_heads=2,
        num_encoder_layers=2,
        num_decoder_layers=2,
        max_seq_len=64,
        pad_token_id=PAD,
        tie_embeddings="none",
    )
    with torch.no_grad():
        model.output.weight *= output_scale  # an untrained model is nearly uniform: let it have opinions
        model.output.weight[EOS] *= 1.5
    return model.double().eval()


def full_log_probs(model: OptimizedTransformer, source: list[int], ids: list[int]) -> Tensor:
    """(T, V) after each prefix of ids, without a cache and without a batch."""
    with torch.no_grad():
        return model(torch.tensor([[*source, EOS]]), torch.tensor([[BOS, *ids]])).log_softmax(-1)[0]


def test_cached_greedy_search_takes_what_the_whole_model_finds_likeliest():
    model, sources = make_transformer(), some_sources(12)
    settings = SearchSettings(beam_size=1, max_length_ratio=1.0, max_length_offset=8)
    lengths = set()
    for source, [hypothesis] in zip(sources, run(model, sources, settings), strict=True):
        steps = [*hypothesis.ids, EOS] if hypothesis.finished else hypothesis.ids
        log_probs = full_log_probs(model, source, steps[:-1])
        log_probs[:, [PAD, BOS, UNK]] = -math.inf
        assert log_probs.argmax(-1).tolist() == steps
        lengths.add((len(steps), hypothesis.finished))
    assert len(lengths) > 3 and {True, False} == {finished for _, finished in lengths}


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beam_scores_are_those_of_the_whole_model(length_penalty):
    model, sources = make_transformer(1), some_sources(6)
    settings = SearchSettings(beam_size=4, n_best=4, length_penalty=length_penalty, max_length_ratio=1.0)
    for source, hypotheses in zip(sources, run(model, sources, settings), strict=True):
        assert len(hypotheses) == 4
        for hypothesis in hypotheses:
            steps = [*hypothesis.ids, EOS] if hypothesis.finished else hypothesis.ids
            log_probs = full_log_probs(model, source, steps[:-1])
            expected = log_probs[torch.arange(len(steps)), steps].sum().item()
            assert hypothesis.log_prob == pytest.approx(expected, abs=1e-9)
            assert hypothesis.score == pytest.approx(expected / len(steps) ** length_penalty, abs=1e-9)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_the_batch_size_changes_nothing(beam_size):
    model, sources = make_transformer(2), [[9, 8, 7]] * 2 + some_sources(5, longest=7)
    settings = SearchSettings(beam_size=beam_size, n_best=beam_size, max_length_ratio=1.0, max_length_offset=6)
    alone = [run(model, [source], settings)[0] for source in sources]
    for size in range(2, 8):
        for start in range(0, len(sources), size):
            chosen = range(len(sources))[start : start + size][:: (-1) ** size]
            together = run(model, [sources[i] for i in chosen], settings, max_tokens_per_batch=10_000)
            for index, hypotheses in zip(chosen, together, strict=True):
                assert [h.ids for h in hypotheses] == [h.ids for h in alone[index]]
                assert [h.score for h in hypotheses] == pytest.approx([h.score for h in alone[index]], abs=1e-9)
