"""What a validation translates while training: scores of some pairs, and samples with pictures for trackers."""

from collections.abc import Callable
from itertools import islice, zip_longest

from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.dataset.efficient_dataloader import DataModule
from pytorch_dl.errors import ConfigError
from pytorch_dl.evaluation.metrics import bleu, chrf, exact_match, has_four_grams
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.reporting.attention_picture import attention_pictures
from pytorch_dl.training.progress import Sample
from pytorch_dl.training.validation import Decode, Decoded
from pytorch_dl.translator import Translator

SAMPLES = 5
PICTURES = 3  # of the first samples
GREEDY = SearchSettings(beam_size=1, scored=False)


def decoder(
    data: DataModule, training: TrainingConfig, settings: SearchSettings = GREEDY, *, pictures: bool = False
) -> Decode | None:
    """Translation of the first validation pairs, for the scores and samples of each validation."""
    store, tokenizers = data.val_store, data.tokenizers
    if store is None:
        return None
    some = range(min(training.eval_decode, len(store)))
    sources = tokenizers.src.decode_batch([store.src(index).tolist() for index in some])
    references = tokenizers.tgt.decode_batch([store.tgt(index).tolist() for index in some])
    metrics = {"bleu": bleu, "chrf": chrf, "exact_match": exact_match}
    if not has_four_grams(references):
        if training.early_stopping_metric == "bleu":
            raise ConfigError(
                "training.early_stopping_metric is bleu, which counts runs of four words, but no translated validation "
                "target is so long",
                fix="choose chrf or exact_match, or raise training.eval_decode",
            )
        del metrics["bleu"]

    def decode(model: OptimizedTransformer, poll: Callable[[], None]) -> Decoded:
        translator = Translator(model, tokenizers, reads_as_trained=True)
        found = translator.hypotheses(sources, settings, progress=lambda _: poll())
        texts = [best[0].text for best in found]
        scores = {name: metric(texts, references).value for name, metric in metrics.items()}
        drawn = attention_pictures(translator, sources[:PICTURES], texts[:PICTURES]) if pictures else []
        samples = islice(zip_longest(sources, references, texts, drawn), SAMPLES)
        return Decoded(scores, [Sample(*sample) for sample in samples])

    return decode
