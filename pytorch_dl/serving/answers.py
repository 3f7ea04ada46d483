"""From texts to what the server says of them, by the translator that the command `translate` uses."""

from collections.abc import Callable, Sequence
from typing import Any

from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.serving.wish import Settings
from pytorch_dl.translator import Translation, Translator

MOST_CELLS = 40_000  # of one attention map that is sent


class Abandoned(Exception):
    """Nobody waits for it any more."""


class Answers:
    """What a Batcher works with."""

    def __init__(self, translator: Translator) -> None:
        self.translator = translator

    def __call__(self, texts: Sequence[str], settings: Settings, is_wanted: Callable[[], bool]) -> list[dict[str, Any]]:
        """One answer for each text; raises Abandoned between two sentences when nobody waits."""

        def go_on(_: int) -> None:
            if not is_wanted():
                raise Abandoned

        search = SearchSettings(beam_size=max(settings.beam, settings.nbest), n_best=settings.nbest)
        found = self.translator.hypotheses(texts, search, progress=go_on)
        return [self._answer(text, best, settings) for text, best in zip(texts, found, strict=True)]

    def _answer(self, text: str, best: Sequence[Translation], settings: Settings) -> dict[str, Any]:
        answer = {
            "source": text,
            "text": best[0].text,
            "score": best[0].score,
            "source_cut": best[0].source_cut,
            "alternatives": [
                {"text": one.text, "score": one.score, "finished": one.finished, "tokens": one.tokens} for one in best
            ],
        }
        return self._with_attention(answer, text, best) if settings.attention else answer

    def _with_attention(self, answer: dict[str, Any], text: str, best: Sequence[Translation]) -> dict[str, Any]:
        sources = self.translator.source_pieces(text)
        answer["source_tokens"] = sources
        fitting = [one for one in best if len(sources) * len(one.tokens) <= MOST_CELLS]
        maps = iter(self.translator.attention_maps([text] * len(fitting), fitting))
        for row, one in zip(answer["alternatives"], best, strict=True):
            row["target_tokens"] = self.translator.target_pieces(one)
            row["attention"] = None
            if one in fitting:
                row["attention"] = [[round(weight, 4) for weight in weights] for weights in next(maps).weights]
        return answer
