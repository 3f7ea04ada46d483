"""How many parameters the templates have, on the meta device."""

import pytest
import torch
from small_models import VOCAB, small

from pytorch_dl.config import get_config
from pytorch_dl.models import OptimizedTransformer


def count(template: str, vocabulary: int) -> int:
    with torch.device("meta"):
        sizes = {"src_vocab_size": vocabulary, "tgt_vocab_size": vocabulary}
        return OptimizedTransformer(**sizes, **get_config(template).model.__dict__).num_parameters()


@pytest.mark.parametrize(("template", "promised"), [("small", 256e6), ("base", 512e6)])
def test_templates_have_the_promised_sizes(template: str, promised: float) -> None:
    assert count(template, 32000) == pytest.approx(promised, rel=0.02)


def test_large_has_over_a_thousand_million_parameters() -> None:
    assert 1e9 <= count("large", 32000) <= 1.1e9


@pytest.mark.parametrize(
    ("template", "d", "heads_and_layers", "paper"),
    [("transformer-base", 512, 6, 65e6), ("transformer-big", 1024, 6, 213e6)],
)
def test_vaswani_templates_have_the_sizes_of_the_paper(
    template: str, d: int, heads_and_layers: int, paper: float
) -> None:
    """The reckoning: attention is 4 d^2 + 4 d, the feed-forward layer 2 d (4 d) + 4 d + d, a norm 2 d.

    An encoder layer has one attention and two norms, a decoder layer two and three; one matrix of vocabulary * d serves
    source, target and output. Table 3 of the paper gives 65 and 213 million at its shared vocabulary of 37,000.
    """
    attention, feed_forward, norm = 4 * d * d + 4 * d, 8 * d * d + 5 * d, 2 * d
    layers = heads_and_layers * (3 * attention + 2 * feed_forward + 5 * norm)
    assert count(template, 32000) == layers + 32000 * d
    assert count(template, 37000) == layers + 37000 * d
    assert count(template, 37000) == pytest.approx(paper, rel=0.03)


def test_transformer_base_has_60_million_parameters_at_32000_words() -> None:
    assert count("transformer-base", 32000) == 60_522_496


def test_tied_matrices_are_one_and_counted_once() -> None:
    models = {tie: small(tie_embeddings=tie) for tie in ("all", "decoder", "none")}
    matrix = VOCAB * 16
    assert models["none"].num_parameters() - models["decoder"].num_parameters() == matrix
    assert models["decoder"].num_parameters() - models["all"].num_parameters() == matrix
    assert models["all"].src_embedding is models["all"].tgt_embedding
    assert models["decoder"].output.weight is models["decoder"].tgt_embedding.weight
    assert models["none"].output.weight is not models["none"].tgt_embedding.weight


def test_source_and_target_learn_their_own_positions() -> None:
    assert small(positions="learned").num_parameters() - small().num_parameters() == 2 * 32 * 16


def test_two_vocabularies_have_their_own_sizes() -> None:
    model = small(src_vocab_size=31, tgt_vocab_size=11, tie_embeddings="decoder")
    assert model(torch.tensor([[30, 1]]), torch.tensor([[10, 3, 2]])).shape == (1, 3, 11)
