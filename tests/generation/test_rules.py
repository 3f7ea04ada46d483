"""What may not come next: outputs against all outputs that keep to the rules."""

import pytest
from toy import EOS, SOURCES, ToyModel, assert_same, exhaustive, hypothesis_of, search

from pytorch_dl.generation.hypothesis import Request
from pytorch_dl.generation.rules import met, wanted


def runs(ids, n) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


def all_that(model, source, limit, keeps):
    return [h for h in exhaustive(model, source, limit, 1.0) if keeps(h)]


def found(model, limit, *, request=None, **changes):
    request = request or Request(SOURCES[0])
    [hypotheses] = search(model, None, [limit], requests=[request], beam_size=400, n_best=1000, **changes)
    return hypotheses


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_run_of_n_tokens_comes_twice(n):
    model = ToyModel(seed=n)

    def keeps(h):
        found = runs([*h.ids, *[EOS] * h.finished], n)
        return len(set(found)) == len(found)

    expected = all_that(model, SOURCES[0], 5, keeps)
    assert 5 < len(expected) < 364
    assert_same(found(model, 5, no_repeat_ngram=n), expected)


def test_sentences_of_different_lengths_keep_to_it_together():
    model = ToyModel(seed=5)
    whole = search(model, SOURCES, [3, 9, 5, 7, 9], beam_size=3, no_repeat_ngram=2)
    for source, limit, hypotheses in zip(SOURCES, [3, 9, 5, 7, 9], whole, strict=True):
        assert hypotheses == search(model, [source], [limit], beam_size=3, no_repeat_ngram=2)[0]


@pytest.mark.parametrize("banned", [((3,),), ((2, 3),), ((4,), (2, 2)), ((2, 3, 4), (3, 3))])
def test_banned_runs_do_not_come_out(banned):
    model = ToyModel(seed=2)
    expected = all_that(model, SOURCES[0], 4, lambda h: not any(run in runs(h.ids, len(run)) for run in banned))
    assert_same(found(model, 4, request=Request(SOURCES[0], banned=banned)), expected)


def test_a_prefix_comes_although_other_rules_ban_it():
    model, prefix = ToyModel(seed=4), (4, 4, 4, 2)
    request = Request(SOURCES[0], prefix=prefix, banned=((4, 4), (2,)))
    best = found(model, 6, request=request, no_repeat_ngram=1)
    assert best and all(tuple(hypothesis.ids[:4]) == prefix for hypothesis in best)
    assert all(2 not in hypothesis.ids[4:] for hypothesis in best), "behind it they hold"


@pytest.mark.parametrize("prefix", [(2,), (3, 4), (4, 4, 2)])
def test_every_output_begins_with_the_prefix(prefix):
    model = ToyModel(seed=3)
    expected = all_that(model, SOURCES[0], 4, lambda h: tuple(h.ids[: len(prefix)]) == prefix)
    assert_same(found(model, 4, request=Request(SOURCES[0], prefix=prefix)), expected)


@pytest.mark.parametrize("least", [0, 1, 2, 4, 9])
def test_outputs_have_their_least_length_where_the_limit_lets_them(least):
    model = ToyModel(seed=4)
    model.output[EOS] *= 3
    expected = all_that(model, SOURCES[0], 4, lambda h: len(h.ids) + h.finished >= min(least, 4))
    assert_same(found(model, 4, min_length=least), expected)


def test_a_score_is_what_the_model_says_whatever_was_banned():
    model = ToyModel(seed=6)
    [hypothesis] = found(model, 6, request=Request(SOURCES[0], prefix=(4, 4), banned=((2,),)), no_repeat_ngram=3)[:1]
    assert_same([hypothesis], [hypothesis_of(model, SOURCES[0], hypothesis.ids, hypothesis.finished, 1.0)])


def test_where_everything_is_banned_there_is_an_empty_output_of_no_likelihood():
    model = ToyModel(seed=0)
    request = Request(SOURCES[0], banned=((2,), (3,), (4,)), required=((2,),))
    for beam_size in (1, 3):
        [[hypothesis]] = search(model, None, [4], requests=[request], beam_size=beam_size)
        assert (hypothesis.ids, hypothesis.finished, hypothesis.score) == ([], False, float("-inf"))


@pytest.mark.parametrize(
    ("ids", "tokens", "next_tokens"),
    [
        ([], 0, {2, 4}),
        ([2], 1, {3, 2, 4}),
        ([2, 3], 2, {4}),
        ([2, 4], 1, {2}),
        ([2, 2], 1, {2, 3, 4}),
        ([4, 2], 2, {2, 3}),
        ([2, 3, 4, 2], 3, set()),
    ],
)
def test_what_is_met_and_what_is_wanted(ids, tokens, next_tokens):
    required = ((2, 3), (4,))
    assert met(ids, required) == tokens
    assert wanted(ids, required) == next_tokens
