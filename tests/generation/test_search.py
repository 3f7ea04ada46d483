"""Search against exhaustive enumeration and a plain reference."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from toy import (
    BOS,
    EOS,
    PAD,
    SOURCES,
    VOCABULARY,
    EndlessModel,
    ToyCache,
    ToyModel,
    assert_same,
    exhaustive,
    hypothesis_of,
    search,
    take_best,
)

from pytorch_dl.errors import NonFiniteError
from pytorch_dl.generation.hypothesis import Hypothesis, Request
from pytorch_dl.generation.search import Entry, Search, Special
from pytorch_dl.generation.settings import SearchSettings

PENALTIES = [0.0, 0.6, 1.0, 2.0]


def reference_beam_search(model: ToyModel, source, limit, beam_size, penalty) -> list[Hypothesis]:
    """The rule of `beam_search` for one sentence, in lists and without a cache."""
    live, found = [([], 0.0)], []
    for length in range(1, limit + 1):
        candidates = []
        for ids, total in live:
            log_probs = model.log_probs(source, ids)
            candidates += [([*ids, t], total + log_probs[t].item()) for t in range(1, VOCABULARY)]
        candidates.sort(key=lambda candidate: -candidate[1])
        for ids, total in candidates[:beam_size]:
            if ids[-1] == EOS:
                found.append(Hypothesis(ids[:-1], total / length**penalty, total, True))
        live = [candidate for candidate in candidates if candidate[0][-1] != EOS][:beam_size]
        if length == limit:
            found += [Hypothesis(ids, total / length**penalty, total, False) for ids, total in live]
        elif len(found) >= beam_size and live[0][1] / length**penalty <= max(h.score for h in found):
            break
    return sorted(found, key=lambda hypothesis: -hypothesis.score)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("limit", [1, 2, 4])
def test_with_room_for_everything_it_finds_exactly_all_outputs_in_order(penalty, limit):
    model = ToyModel(seed=limit)
    expected = exhaustive(model, SOURCES[0], limit, penalty)
    assert len(expected) == sum(3**n for n in range(limit + 1))  # 121 for a limit of 4
    [actual] = search(model, SOURCES[:1], [limit], beam_size=121, length_penalty=penalty, n_best=1000)
    assert_same(actual, expected)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("beam_size", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_a_narrow_beam_follows_the_reference_rule(penalty, beam_size, seed):
    model = ToyModel(seed=seed)
    limits = [7, 3, 9, 5, 1]
    found = search(model, SOURCES, limits, beam_size=beam_size, length_penalty=penalty, n_best=100)
    for source, limit, actual in zip(SOURCES, limits, found, strict=True):
        assert_same(actual, reference_beam_search(model, source, limit, beam_size, penalty))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_one_beam_is_greedy_search_to_the_last_bit(penalty):
    endings = set()
    for seed in range(30):
        model = ToyModel(seed=seed)
        best = take_best(model, SOURCES, [8] * 5, length_penalty=penalty)
        assert [[hypothesis] for hypothesis in best] == search(
            model, SOURCES, [8] * 5, beam_size=1, length_penalty=penalty
        )
        endings |= {(hypothesis.finished, len(hypothesis.ids)) for hypothesis in best}
    assert {finished for finished, _ in endings} == {True, False} and len(endings) > 5  # not proved on trivial outputs


def test_greedy_takes_the_likeliest_token_of_the_full_model_at_every_step():
    model = ToyModel(seed=3)
    for source, hypothesis in zip(SOURCES, take_best(model, SOURCES, [6] * 5), strict=True):
        ids: list[int] = []
        while len(ids) < 6:
            token = 1 + model.log_probs(source, ids)[1:].argmax().item()
            if token == EOS:
                break
            ids.append(token)
        assert_same([hypothesis], [hypothesis_of(model, source, ids, len(ids) < 6, 1.0)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_outputs_depend_neither_on_the_batch_nor_on_its_order(dtype):
    model = ToyModel(seed=11, vocabulary=40)
    decode_step = model.decode_step
    model.decode_step = lambda tokens, cache: decode_step(tokens, cache).to(dtype)  # bfloat16: full of ties
    limits = [6, 9, 2, 12, 4]
    whole = search(model, SOURCES, limits, beam_size=4, n_best=4)
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        shuffled = search(model, [SOURCES[i] for i in order], [limits[i] for i in order], beam_size=4, n_best=4)
        assert shuffled == [whole[i] for i in order]
    for index in range(5):
        assert search(model, [SOURCES[index]], [limits[index]], beam_size=4, n_best=4) == [whole[index]]
        assert take_best(model, [SOURCES[index]], [limits[index]]) == [take_best(model, SOURCES, limits)[index]]


def test_n_best_are_distinct_sorted_and_start_with_the_best():
    model = ToyModel(seed=5)
    four = search(model, SOURCES, [6] * 5, beam_size=4, n_best=4)
    assert [hypotheses[:1] for hypotheses in four] == search(model, SOURCES, [6] * 5, beam_size=4, n_best=1)
    for hypotheses in four:
        assert len({tuple(h.ids) for h in hypotheses}) == 4
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)


@pytest.mark.parametrize("beam_size", [0, 1, 2])
def test_each_sentence_has_its_own_limit_and_leaves_the_batch_there(beam_size):
    model, limits = EndlessModel(seed=0), [1, 5, 3]
    if beam_size:
        found = [hypotheses[0] for hypotheses in search(model, SOURCES[:3], limits, beam_size=beam_size)]
    else:
        found = take_best(model, SOURCES[:3], limits)
    assert [len(hypothesis.ids) for hypothesis in found] == limits
    assert not any(hypothesis.finished for hypothesis in found)
    assert model.batch_sizes == [3, 2, 2, 1, 1]


def test_sentences_leave_when_they_are_a_quarter_of_the_batch():
    model, limits = EndlessModel(seed=0), [5, 5, 5, 5, 5, 1, 2, 3]
    found = take_best(model, [SOURCES[0]] * 8, limits)
    assert [len(hypothesis.ids) for hypothesis in found] == limits
    assert model.batch_sizes == [8, 8, 6, 6, 6]


def test_sentences_that_enter_later_come_out_as_if_they_had_been_alone():
    model = ToyModel(seed=6)
    settings = SearchSettings(beam_size=3, n_best=3)
    running = Search(model, settings, Special(PAD, BOS, EOS, frozenset({BOS})))
    waiting = [Entry(place, Request(SOURCES[place % 5]), 3 + place) for place in range(12)]
    found = {}
    while waiting or len(running):
        if waiting:
            running.enter([waiting.pop(0)])
        found |= {entry.place: hypotheses for entry, hypotheses in running.step()}
    alone = [search(model, [SOURCES[place % 5]], [3 + place], beam_size=3, n_best=3)[0] for place in range(12)]
    assert [found[place] for place in range(12)] == alone
    assert max(model.batch_sizes) > 2


def test_banned_ids_never_come_out_but_keep_their_share_of_the_probability():
    model = ToyModel(seed=2)
    model.output[3] *= 4.0
    favourite = {token for h in take_best(model, SOURCES, [9] * 5, banned_ids=()) for token in h.ids}
    assert {BOS, 3} & favourite, "this test needs a model that wants the banned tokens"
    for beam_size in (1, 3, 50):
        for hypotheses in search(model, SOURCES, [4] * 5, beam_size=beam_size, n_best=100, banned_ids=(BOS, 3)):
            assert {token for h in hypotheses for token in h.ids} <= {2, 4}
            assert all(math.isfinite(h.score) for h in hypotheses)
    hypothesis = take_best(model, SOURCES[:1], [4], banned_ids=(BOS, 3))[0]
    assert_same([hypothesis], [hypothesis_of(model, SOURCES[0], hypothesis.ids, hypothesis.finished, 1.0)])


class TiedModel(ToyModel):
    """Every token is as likely as every other."""

    def decode_step(self, tokens: Tensor, cache: ToyCache) -> Tensor:
        self.batch_sizes.append(len(tokens))
        return torch.zeros(*tokens.shape, 64)


def test_ties_go_to_the_lowest_id_of_the_better_beam():
    model = TiedModel(seed=0, vocabulary=64)
    settings = {"eos_id": 63, "banned_ids": [0, 2]}
    assert [h.ids for h in take_best(model, SOURCES[:2], [2, 3], **settings)] == [[1, 1], [1, 1, 1]]
    found = search(model, SOURCES[:2], [2, 3], **settings, beam_size=3, n_best=3)
    assert [[h.ids for h in hypotheses] for hypotheses in found] == [
        [[1, 1], [1, 3], [1, 4]],
        [[1, 1, 1], [1, 1, 3], [1, 1, 4]],
    ]
    assert found[0][0].score == pytest.approx(-math.log(64))


def test_a_live_beam_that_is_only_as_good_as_the_finished_one_ends_the_search():
    model = TiedModel(seed=0)
    [[hypothesis]] = search(model, SOURCES[:1], [9], beam_size=1)
    assert hypothesis.ids == [] and len(model.batch_sizes) == 1


def test_scores_of_half_precision_logits_are_summed_in_float32():
    model = ToyModel(seed=4)
    decode_step = model.decode_step
    model.decode_step = lambda tokens, cache: decode_step(tokens, cache).bfloat16()
    [[hypothesis]] = search(model, SOURCES[:1], [9], beam_size=3)
    rounded = 0.0
    cache = model.start_decoding(torch.tensor([[*SOURCES[0], EOS]]))
    for token, following in itertools.pairwise([BOS, *hypothesis.ids, *[EOS] * hypothesis.finished]):
        rounded += model.decode_step(torch.tensor([[token]]), cache)[0, 0].double().log_softmax(-1)[following].item()
    assert hypothesis.log_prob == pytest.approx(rounded, abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error_that_names_the_position(bad):
    model = EndlessModel(seed=0)
    decode_step = model.decode_step

    def break_at_the_third(tokens, cache):
        logits = decode_step(tokens, cache)
        if len(model.batch_sizes) == 3:
            logits[-1, 0, 4] = bad
        return logits

    model.decode_step = break_at_the_third
    for run in (take_best, lambda *inputs: search(*inputs, beam_size=2)):
        model.batch_sizes.clear()
        with pytest.raises(NonFiniteError, match="logits for output token 3 are not finite numbers"):
            run(model, SOURCES, [9] * 5)


def test_impossible_tokens_end_a_sentence_that_has_nowhere_to_go():
    model = ToyModel(seed=0)
    decode_step = model.decode_step

    def two_words(tokens, cache):
        logits = decode_step(tokens, cache)
        logits[..., 2:] = torch.where(tokens[..., None] == 2, -torch.inf, logits[..., 2:])  # after 2, only eos
        logits[..., 3:] = -torch.inf
        return logits

    model.decode_step = two_words
    [hypotheses] = search(model, SOURCES[:1], [9], beam_size=4, n_best=9)
    assert sorted(h.ids for h in hypotheses) == [[], [2]] and all(h.finished for h in hypotheses)


@pytest.mark.parametrize("seed", range(4))
def test_without_scores_greedy_search_finds_the_same(seed):
    model, limits = ToyModel(seed), [8, 3, 8, 8, 8]
    scored, bare = (search(model, SOURCES, limits, beam_size=1, scored=scored) for scored in (True, False))
    assert [(found[0].ids, found[0].finished) for found in bare] == [(f[0].ids, f[0].finished) for f in scored]
    assert all(math.isnan(found[0].score) and not found[0].token_log_probs for found in bare)


def test_what_needs_scores_has_them_though_none_are_asked_for():
    for changes in ({"beam_size": 3}, {"sampling": True}):
        scored, bare = (search(ToyModel(3), SOURCES, [8] * 5, scored=scored, **changes) for scored in (True, False))
        assert scored == bare
