"""Which other toolkit a configuration file was written for, told by its settings that are none of ours."""

from collections.abc import Iterable

OUR_NAMES = 'the page "Coming from other toolkits" (docs/coming-from.md) has our names of their settings'
ENOUGH = 3  # settings that tell
_TELLING = {
    "OpenNMT-py or Eole": (
        "save_data save_model src_vocab tgt_vocab src_vocab_size tgt_vocab_size share_vocab encoder_type decoder_type "
        "world_size gpu_ranks train_steps valid_steps save_checkpoint_steps decay_method word_vec_size transformer_ff"
    ),
    "JoeyNMT": (
        "testing data.trg data.dev data.level data.dataset_type training.model_dir training.validation_freq "
        "training.batch_multiplier training.scheduling model.encoder model.decoder model.initializer"
    ),
    "fairseq": "task arch criterion common optimization lr_scheduler distributed_training max_tokens update_freq",
    "Sockeye": (
        "prepared_data validation_source validation_target transformer_model_size transformer_attention_heads "
        "transformer_feed_forward_num_hidden initial_learning_rate checkpoint_interval weight_tying_type"
    ),
}


def other_toolkit(unknown: Iterable[str]) -> str | None:
    """The toolkit whose settings the unknown ones `key` and `section.key` are, if that is clear."""
    found = {name.replace("-", "_") for name in unknown}
    return next((name for name, telling in _TELLING.items() if len(found & {*telling.split()}) >= ENOUGH), None)
