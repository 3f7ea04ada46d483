"""Configuration files of other toolkits are told from ours with slips."""

from pathlib import Path

import pytest

from pytorch_dl.config import load_config
from pytorch_dl.config.other_toolkits import other_toolkit
from pytorch_dl.errors import ConfigError

OPENNMT = """
save_data: run/example
overwrite: False
src_vocab: run/example.vocab.src
tgt_vocab: run/example.vocab.tgt
data:
    corpus_1: {path_src: src-train.txt, path_tgt: tgt-train.txt}
    valid: {path_src: src-val.txt, path_tgt: tgt-val.txt}
save_model: run/model
train_steps: 100000
learning_rate: 2
world_size: 1
"""
OPENNMT_1 = """
data: exp/dataset.de-en
save_model: exp/model.de-en
train_steps: 500000
decoder_type: transformer
"""
EOLE = """
save_data: data_bpe
src_vocab: vocab
tgt_vocab: vocab
training: {world_size: 1, learning_rate: 2, optim: adamw}
model: {architecture: transformer, hidden_size: 1024}
"""
JOEYNMT = """
name: transformer
joeynmt_version: 2.3.0
data:
    train: train
    dev: dev
    src: {lang: de, max_length: 100, level: bpe}
    trg: {lang: en}
testing: {beam_size: 5}
training: {optimizer: adam, epochs: 5, model_dir: models}
model:
    initializer: xavier_uniform
    encoder: {type: transformer, num_layers: 6}
"""
FAIRSEQ = """
common: {fp16: true, seed: 2}
task:
  _name: translation
  data: ???
criterion: {_name: label_smoothed_cross_entropy}
optimization: {max_update: 1000, lr: [0.0005]}
optimizer: {_name: adam}
model: {_name: transformer}
"""
SOCKEYE = """
prepared-data: prepared
validation-source: [dev.de]
validation-target: [dev.en]
transformer-model-size: [512]
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (OPENNMT, ":2: written for OpenNMT-py or Eole: 10 unknown settings: 'save_data'; 'overwrite'; 'src_vocab'; "),
        (OPENNMT_1, ":3: written for OpenNMT-py or Eole: 3 unknown settings: 'save_model'; 'train_steps'; "),
        (EOLE, ":2: written for OpenNMT-py or Eole: 7 unknown settings: "),
        (JOEYNMT, ":2: written for JoeyNMT: 12 unknown settings: 'name'; 'joeynmt_version'; 'data.train'; 'data.dev'"),
        (FAIRSEQ, ":2: written for fairseq: 6 unknown settings: 'common'; "),
        (SOCKEYE, ":2: written for Sockeye: 4 unknown settings: 'prepared-data'; "),
    ],
)
def test_whose_file_it_is_and_where_our_names_stand(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    line = str(error.value)
    assert line.startswith(f"{path}{told}") and "did you mean" not in line and "\n" not in line and len(line) < 500
    assert line.endswith(
        'Fix: the page "Coming from other toolkits" (docs/coming-from.md) has our names of their settings.'
    )


def test_some_words_of_theirs_are_no_file_of_theirs() -> None:
    assert other_toolkit(["task", "arch"]) is None
    assert other_toolkit(["world_size", "train_steps", "model.heads", "x"]) is None
    assert other_toolkit([]) is None
