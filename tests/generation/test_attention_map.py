"""The attention map against weights computed by hand, and what becomes of it."""

import json

import pytest
import torch
from tiny import tiny_model
from tiny_runs import call

from pytorch_dl import load
from pytorch_dl.errors import ConfigError
from pytorch_dl.generation.attention_map import AttentionMap, cross_attention, word_pairs, words_of
from pytorch_dl.generation.settings import SearchSettings

SOURCES = [[5, 6, 7, 2], [9, 2], [11, 12, 13, 14, 15, 2]]
TARGETS = [[8, 3, 2], [4, 5, 6, 7, 2], [2]]


def by_hand(model, source, target):
    """Head by head: the softmax of q k / sqrt(D), from what enters each cross-attention."""
    entered = []
    for layer in model.decoder_layers:
        layer.cross_attention.register_forward_pre_hook(lambda part, inputs: entered.append((part, *inputs[:2])))
    with torch.no_grad():
        model(torch.tensor([source]), torch.tensor([[1, *target[:-1]]]))
    maps = []
    for part, x, memory in entered:
        query, key, dim = part.heads
        q, k = part.q_proj(x)[0], part.kv_proj(memory)[0][:, : key * dim]
        for head in range(query):
            of_key = head * key // query
            products = q[:, head * dim : (head + 1) * dim] @ k[:, of_key * dim : (of_key + 1) * dim].T
            maps.append(torch.softmax(products / dim**0.5, dim=1))
    return torch.stack(maps).mean(dim=0).detach()


@pytest.mark.parametrize("attention", ["plain", "sdpa"])
@pytest.mark.parametrize("n_kv_heads", [None, 2, 1])
@pytest.mark.parametrize("max_tokens", [1, 4096])
def test_equals_a_computation_by_hand(attention, n_kv_heads, max_tokens):
    shape = {"n_heads": 4, "n_kv_heads": n_kv_heads, "num_decoder_layers": 2, "attention": attention}
    model = tiny_model(dtype=torch.float64, **shape).train()
    found = cross_attention(model, SOURCES, TARGETS, bos_id=1, max_tokens=max_tokens)
    assert model.training
    for source, target, weights in zip(SOURCES, TARGETS, found, strict=True):
        assert weights.shape == (len(target), len(source))
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(target), dtype=torch.float64))
        torch.testing.assert_close(weights, by_hand(model.eval(), source, target))


def test_the_hooks_are_gone_afterwards():
    model = tiny_model()
    cross_attention(model, SOURCES, TARGETS, bos_id=1)
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_a_layer_without_attention_is_refused():
    model = tiny_model()
    for layer in model.decoder_layers:
        layer.cross_attention.cross = False
    with pytest.raises(ConfigError, match="no MultiHeadAttention to the source"):
        cross_attention(model, SOURCES, TARGETS, bos_id=1)


def test_the_strongest_is_the_first_of_equals():
    assert AttentionMap(["a", "b"], ["c", "d"], [[0.5, 0.5], [0.2, 0.8]]).strongest() == [(0, 0), (1, 1)]


def test_words_lie_between_spaces():
    text = "ab c  d"
    spans = [(0, 1), (1, 2), (2, 4), (4, 6), (6, 7)]
    assert words_of(text, spans) == [0, 0, 1, None, 2]


def test_a_word_looks_where_its_tokens_do_together():
    weights = [[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.0, 0.1, 0.9]]
    assert word_pairs(weights, [0, 1, 1], [0, 0, None]) == [(1, 0)]
    assert word_pairs(weights, [None, None, None], [0, 0, 1]) == []


def test_a_translator_tells_tokens_and_weights(tiny_run):
    translator = load(tiny_run)
    best = translator.hypotheses(["ab cd", ""], SearchSettings())
    seen = translator.attention("ab cd", best[0][0])
    assert "".join(seen.source[:-1]) == "ab cd"
    assert len(seen.target) == len(seen.weights) == len(best[0][0].tokens)
    assert all(sum(row) == pytest.approx(1) and len(row) == len(seen.source) for row in seen.weights)
    assert translator.attention("", best[1][0]).weights == []
    with pytest.raises(ConfigError, match="a target of 1 ids up to 999 is not this model's"):
        translator.attention("ab", [999])


def test_the_command_prints_pairs(tiny_run, capsys):
    texts = ("--text", "ab cd ef", "--text", "")
    plain, blank = call(capsys, "translate", tiny_run, "--align", *texts).out.splitlines()
    text, pairs = plain.split("\t")
    numbers = [tuple(map(int, pair.split("-"))) for pair in pairs.split()]
    assert [target for _, target in numbers] == list(range(len(text.split())))
    assert all(0 <= source < 3 for source, _ in numbers)
    assert blank == "\t"
    first, _ = (
        json.loads(line) for line in call(capsys, "translate", tiny_run, "--align", "--json", *texts).out.splitlines()
    )
    best = first["translations"][0]
    seen = load(tiny_run).attention("ab cd ef", best["token_ids"])
    assert best["alignment"] == [[row, weights.index(max(weights))] for row, weights in enumerate(seen.weights)]
    assert first["source_tokens"] == seen.source
