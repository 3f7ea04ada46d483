"""Strategies against plain references: other stopping rules and scores, groups of beams, required words, draws."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from toy import BOS, EOS, SOURCES, VOCABULARY, EndlessModel, ToyModel, assert_same, exhaustive, search

from pytorch_dl.generation.hypothesis import Hypothesis, Request
from pytorch_dl.generation.settings import SearchSettings


def stopped_reference(model, source, limit, beam_size, rule, norm) -> list[Hypothesis]:
    """Beam search for one sentence, in lists and without a cache, with the stopping rule `rule`."""
    live, found = [([], 0.0)], []
    for length in range(1, limit + 1):
        candidates = []
        for ids, total in live:
            log_probs = model.log_probs(source, ids)
            candidates += [([*ids, t], total + log_probs[t].item()) for t in range(1, VOCABULARY)]
        candidates.sort(key=lambda candidate: -candidate[1])
        found += [(ids[:-1], total / norm(length), True) for ids, total in candidates[:beam_size] if ids[-1] == EOS]
        live = [candidate for candidate in candidates if candidate[0][-1] != EOS][:beam_size]
        at = {"first": None, "likely": length, "sure": limit}[rule]
        if length == limit:
            found += [(ids, total / norm(length), False) for ids, total in live]
        elif len(found) >= beam_size and (at is None or live[0][1] / norm(at) <= max(score for _, score, _ in found)):
            break
    return sorted(found, key=lambda one: -one[1])


@pytest.mark.parametrize("length_norm", ["power", "gnmt"])
@pytest.mark.parametrize("rule", ["first", "likely", "sure"])
def test_stopping_rules_and_norms_follow_the_reference(rule, length_norm):
    lengths = set()
    for seed in range(6):
        model = ToyModel(seed=seed)
        changes = {"beam_size": 3, "early_stopping": rule, "length_norm": length_norm, "length_penalty": 0.8}
        norm = (lambda n: n**0.8) if length_norm == "power" else (lambda n: ((5 + n) / 6) ** 0.8)
        found = search(model, SOURCES, [9] * 5, n_best=100, **changes)
        lengths.add(len(model.batch_sizes))
        for source, actual in zip(SOURCES, found, strict=True):
            expected = stopped_reference(ToyModel(seed=seed), source, 9, 3, rule, norm)
            assert [(h.ids, h.finished) for h in actual] == [(ids, finished) for ids, _, finished in expected]
            assert [h.score for h in actual] == pytest.approx([score for _, score, _ in expected], abs=1e-12)
    assert len(lengths) > 1 or rule == "sure"


def test_the_rules_stop_one_later_than_another():
    steps = Counter()
    for rule, seed in itertools.product(("first", "likely", "sure"), range(8)):
        model = ToyModel(seed=seed, sharpness=1.0)
        search(model, SOURCES, [12] * 5, beam_size=2, early_stopping=rule)
        steps[rule] += sum(model.batch_sizes)
    assert steps["first"] < steps["likely"] < steps["sure"]


def diverse_reference(model, source, limit, groups, size, penalty) -> list[list[tuple[list[int], float]]]:
    """Live prefixes of each group after `limit` steps, where nothing ends."""
    live = [[([], 0.0)] for _ in range(groups)]
    for _ in range(limit):
        taken: Counter[int] = Counter()
        for group in range(groups):
            candidates = []
            for ids, total in live[group]:
                log_probs = model.log_probs(source, ids)
                for token in range(2, VOCABULARY):
                    gain = log_probs[token].item()
                    candidates.append(([*ids, token], total + gain, total + gain - penalty * taken[token]))
            candidates.sort(key=lambda candidate: -candidate[2])
            live[group] = [(ids, total) for ids, total, _ in candidates[:size]]
            taken.update(ids[-1] for ids, _ in live[group])
    return live


@pytest.mark.parametrize("penalty", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("groups", [2, 3, 6])
def test_groups_of_beams_follow_the_reference(groups, penalty):
    for seed in range(4):
        model = EndlessModel(seed=seed, sharpness=1.0)  # what is left at the limit are the live prefixes of all groups
        found = search(
            model,
            SOURCES,
            [4] * 5,
            beam_size=6,
            n_best=6,
            diversity_groups=groups,
            diversity_penalty=penalty,
            length_penalty=0.0,
        )
        for source, hypotheses in zip(SOURCES, found, strict=True):
            reference = diverse_reference(model, source, 4, groups, 6 // groups, penalty)
            expected = sorted(one for group in reference for one in group)
            actual = sorted((h.ids, h.log_prob) for h in hypotheses)
            assert [ids for ids, _ in actual] == [ids for ids, _ in expected]
            assert [score for _, score in actual] == pytest.approx([score for _, score in expected], abs=1e-6)


def test_groups_are_more_diverse_than_one():
    model = ToyModel(seed=3)

    def firsts(**changes):
        found = search(model, SOURCES, [6] * 5, beam_size=4, n_best=4, **changes)
        return sum(len({tuple(h.ids[:1]) for h in hypotheses}) for hypotheses in found)

    assert firsts(diversity_groups=4, diversity_penalty=5.0) > firsts()


def holds(ids, run) -> bool:
    return any(tuple(ids[i : i + len(run)]) == tuple(run) for i in range(len(ids)))


@pytest.mark.parametrize("required", [((2,),), ((3, 2),), ((4,), (2, 2)), ((2, 3), (3, 4))])
def test_with_room_for_everything_required_runs_come_out_at_their_best(required):
    for seed in range(3):
        model = ToyModel(seed=seed)
        requests = [Request(source, required=required) for source in SOURCES[:2]]
        found = search(model, None, [5, 5], requests=requests, beam_size=400, n_best=1000)
        for source, hypotheses in zip(SOURCES[:2], found, strict=True):
            every = [
                h for h in exhaustive(model, source, 5, 1.0) if h.finished and all(holds(h.ids, r) for r in required)
            ]
            finished = [h for h in hypotheses if h.finished]
            assert finished and all(all(holds(h.ids, run) for run in required) for h in finished)
            assert_same(finished, every)


@pytest.mark.parametrize("beam_size", [2, 3, 6])
def test_a_narrow_beam_holds_what_is_required_and_leaves_other_sentences_alone(beam_size):
    model = ToyModel(seed=8, vocabulary=30)
    required = ((17,), (23, 5))
    requests = [Request(SOURCES[0]), Request(SOURCES[1], required=required), Request(SOURCES[2])]
    free, bound, other = search(model, None, [14] * 3, requests=requests, beam_size=beam_size)
    assert all(holds(bound[0].ids, run) for run in required)
    assert [free, other] == search(model, [SOURCES[0], SOURCES[2]], [14] * 2, beam_size=beam_size)


def chain_probabilities(model, source, limit, weights) -> dict[tuple[tuple[int, ...], bool], float]:
    """Probability of each output when `weights(log_probs)` are drawn from at every step."""
    outputs = {}

    def follow(ids, probability):
        if len(ids) == limit:
            outputs[(tuple(ids), False)] = probability
            return
        shares = weights(model.log_probs(source, ids))
        shares = shares / shares.sum()
        for token, share in enumerate(shares.tolist()):
            if share and token == EOS:
                outputs[(tuple(ids), True)] = probability * share
            elif share:
                follow([*ids, token], probability * share)

    follow([], 1.0)
    return outputs


def truncated(log_probs, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The rules in plain words: token by token, the likeliest first."""
    shares = np.exp(log_probs.numpy() / temperature)
    shares[BOS] = 0.0
    order = sorted(range(len(shares)), key=lambda token: (-shares[token], token))
    order = order[:top_k] if top_k else order
    before, kept = 0.0, []
    for token in order:
        if before < top_p * sum(shares[other] for other in order):
            kept.append(token)
        before += shares[token]
    kept = [token for token in kept if shares[token] >= min_p * shares.max()]
    return np.array([share if token in kept else 0.0 for token, share in enumerate(shares)])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 2},
        {"top_p": 0.7},
        {"min_p": 0.4},
        {"top_k": 3, "top_p": 0.8, "temperature": 1.5},
    ],
    ids=str,
)
def test_draws_have_the_probabilities_of_the_model(changes):
    """Pearson's chi-square of 6,000 draws against the exact distribution; seeded."""
    model, draws = ToyModel(seed=2, sharpness=0.8), 6000
    expected = chain_probabilities(model, SOURCES[0], 3, lambda log_probs: truncated(log_probs, **changes))
    assert sum(expected.values()) == pytest.approx(1.0)
    requests = [Request(SOURCES[0], number) for number in range(draws // 20)]
    found = search(model, None, [3] * len(requests), requests=requests, sampling=True, n_best=20, seed=5, **changes)
    counts = Counter((tuple(h.ids), h.finished) for hypotheses in found for h in hypotheses)
    assert set(counts) <= {output for output, share in expected.items() if share > 0}
    common = {output: share * draws for output, share in expected.items() if share * draws >= 5}
    rest = draws - sum(common.values())
    statistic = sum((counts[output] - share) ** 2 / share for output, share in common.items())
    if rest > 5:
        statistic += (draws - sum(counts[output] for output in common) - rest) ** 2 / rest
    freedom = len(common) - (rest <= 5)
    # Wilson and Hilferty 1931: the cube root of chi-square / freedom is nearly normal.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 3.1, (statistic, freedom)


def test_draws_depend_on_the_seed_and_the_sentence_and_on_nothing_else():
    model = ToyModel(seed=4, vocabulary=40)
    settings = {"sampling": True, "n_best": 3, "seed": 7}
    requests = [Request(SOURCES[number % 5], number) for number in range(9)]
    whole = search(model, None, [8] * 9, requests=requests, **settings)
    for number in (8, 0, 4):
        assert search(model, None, [8], requests=[requests[number]], **settings) == [whole[number]]
    assert search(model, None, [8] * 9, requests=requests, **(settings | {"seed": 8})) != whole
    assert whole[0] != whole[5], "the same source with another number has other luck"
    log_prob = sum(whole[0][0].token_log_probs)
    assert whole[0][0].log_prob == pytest.approx(log_prob)


def test_a_draw_without_luck_is_the_likeliest_output():
    model = ToyModel(seed=9)
    cold = search(model, SOURCES, [8] * 5, sampling=True, temperature=1e-3)
    single = search(model, SOURCES, [8] * 5, sampling=True, top_k=1)
    assert (
        [h[0].ids for h in cold]
        == [h[0].ids for h in single]
        == [h[0].ids for h in search(model, SOURCES, [8] * 5, beam_size=1)]
    )


def test_token_log_probs_are_those_of_the_model():
    model = ToyModel(seed=5)
    for changes in ({"beam_size": 1}, {"beam_size": 4, "n_best": 4}, {"sampling": True, "n_best": 3}):
        for source, hypotheses in zip(SOURCES, search(model, SOURCES, [6] * 5, **changes), strict=True):
            for hypothesis in hypotheses:
                steps = [*hypothesis.ids, *[EOS] * hypothesis.finished]
                expected = [model.log_probs(source, steps[:i])[token].item() for i, token in enumerate(steps)]
                assert hypothesis.token_log_probs == pytest.approx(expected, abs=1e-9)
                assert hypothesis.log_prob == pytest.approx(sum(expected), abs=1e-9)


def test_settings_know_how_many_beams_they_need():
    assert SearchSettings(beam_size=4).beams == 4
    assert SearchSettings(beam_size=4, sampling=True, n_best=7).beams == 7
    assert torch.is_grad_enabled()
