"""Any search on any model: hypotheses are ordered, within their limits and different; one beam is greedy."""

from typing import Any

import pytest
from few_examples import fewer
from hypothesis import given
from hypothesis import strategies as st
from toy import BOS, EOS, VOCABULARY, ToyModel, hypothesis_of, search

sources = st.lists(st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=5), min_size=1, max_size=4)
models = st.builds(ToyModel, st.integers(0, 10**6), sharpness=st.sampled_from([0.1, 2.0, 8.0]))


@st.composite
def searches(draw: st.DrawFn) -> tuple[ToyModel, list[list[int]], list[int], dict[str, Any]]:
    """A model, sources, the limit of each, and settings."""
    groups = draw(st.integers(1, 3))
    settings = {
        "beam_size": groups * draw(st.integers(1, 3)),
        "diversity_groups": groups,
        "length_penalty": draw(st.sampled_from([0.0, 0.6, 1.0, 2.0])),
        "length_norm": draw(st.sampled_from(["power", "gnmt"])),
        "early_stopping": draw(st.sampled_from(["first", "likely", "sure"])),
        "min_length": draw(st.integers(0, 3)),
        "no_repeat_ngram": draw(st.integers(0, 3)),
    }
    found = draw(sources)
    limits = draw(st.lists(st.integers(1, 9), min_size=len(found), max_size=len(found)))
    return draw(models), found, limits, settings


@given(searches())
def test_hypotheses_are_ordered_different_and_within_their_limits(given: Any) -> None:
    model, sources, limits, settings = given
    every = search(model, sources, limits, n_best=100, **settings)
    for source, limit, hypotheses in zip(sources, limits, every, strict=True):
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert hypotheses and scores == sorted(scores, reverse=True)
        if settings["diversity_groups"] == 1:  # two groups may come to the same
            assert len({(tuple(one.ids), one.finished) for one in hypotheses}) == len(hypotheses)
        for one in hypotheses:
            assert len(one.ids) + one.finished <= limit and not {BOS, EOS} & set(one.ids)
            oracle = hypothesis_of(model, source, one.ids, one.finished, settings["length_penalty"])
            assert one.log_prob == pytest.approx(oracle.log_prob, abs=1e-9)
        assert search(model, [source], [limit], n_best=100, **settings) == [hypotheses], "the others count"


@fewer(2)
@given(models, sources, st.lists(st.integers(1, 9), min_size=4, max_size=4), st.sampled_from([0.0, 0.6, 1.0, 2.0]))
def test_one_beam_takes_the_likeliest_token_at_each_step(
    model: ToyModel, sources: list[list[int]], limits: list[int], penalty: float
) -> None:
    limits = limits[: len(sources)]
    found = search(model, sources, limits, beam_size=1, length_penalty=penalty)
    for source, limit, [best] in zip(sources, limits, found, strict=True):
        written = [*best.ids, *[EOS] * best.finished]
        for place, token in enumerate(written):
            assert token == 1 + int(model.log_probs(source, best.ids[:place])[1:].argmax())
        assert best.finished or len(written) == limit
