"""The examples in exported folders: how to translate with another engine and `tokenizers` alone."""

from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.dataset.tokenizer_folder import SEPARATE, SHARED
from pytorch_dl.generation.settings import SearchSettings

_CTRANSLATE2 = '''\
"""Translate lines without pytorch-dl: python translate.py [BEAMS] < in.txt > out.txt

Needs: pip install ctranslate2 tokenizers
"""

import sys
from pathlib import Path

import ctranslate2
from tokenizers import Tokenizer

here, beams = Path(__file__).resolve().parent, int(sys.argv[1]) if len(sys.argv) > 1 else 5
src, tgt = (Tokenizer.from_file(str(here / "tokenizer" / name)) for name in ({src!r}, {tgt!r}))
src.encode_special_tokens = True  # what looks like a special token in a text is text
translator = ctranslate2.Translator(str(here))  # device="cuda" for a GPU, compute_type="int8" for smaller products

lines = [line.removesuffix("\\n").removesuffix("\\r") for line in open(0, encoding="utf-8", newline="\\n")]
ids = [src.encode(line, add_special_tokens=False).ids[:{longest}] if line.strip() else [] for line in lines]
limits = [min(int({ratio} * len(row)) + {offset}, {max_seq_len}) for row in ids]
found = translator.translate_batch(
    [[*map(src.id_to_token, row), {eos!r}] if row else [] for row in ids],  # the end mark belongs to the source
    beam_size=beams,
    max_batch_size=64,
    max_input_length={max_seq_len},
    max_decoding_length=max(limits, default=1),
    min_decoding_length=0,
    disable_unk=True,
    suppress_sequences=[[{pad!r}], [{bos!r}]],
)
for best, limit in zip(found, limits):
    written = [tgt.token_to_id(token) for token in best.hypotheses[0][:limit]]
    print(tgt.decode([id for id in written if id is not None]).replace("\\n", " ").replace("\\r", " "))
'''

_ONNX = '''\
"""Translate lines greedily without pytorch-dl: python translate.py < in.txt > out.txt

Needs: pip install onnxruntime tokenizers
"""

from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

here = Path(__file__).resolve().parent
src, tgt = (Tokenizer.from_file(str(here / "tokenizer" / name)) for name in ({src!r}, {tgt!r}))
src.encode_special_tokens = True  # what looks like a special token in a text is text
encoder, decoder = (InferenceSession(here / name) for name in ("encoder.onnx", "decoder.onnx"))


def translate(line: str) -> str:
    ids = src.encode(line, add_special_tokens=False).ids[:{longest}] if line.strip() else []
    written, past = [{bos_id}], [np.zeros({past_shape}, dtype=np.float32)] * 2  # of the begin mark on
    if ids:
        source = encoder.run(None, {{"src": np.array([[*ids, {eos_id}]])}})  # the end mark belongs to the source
    while ids and written[-1] != {eos_id} and len(written) <= min(int({ratio} * len(ids)) + {offset}, {max_seq_len}):
        step = np.array([[written[-1]]]), np.array([[len(written) - 1]]), *past, *source
        log_probs, *past = decoder.run(None, dict(zip([part.name for part in decoder.get_inputs()], step)))
        log_probs[0, {never}] = -np.inf  # pad, begin mark, unknown
        written.append(int(log_probs[0].argmax()))
    return tgt.decode([id for id in written[1:] if id != {eos_id}])


for line in open(0, encoding="utf-8", newline="\\n"):
    print(translate(line.removesuffix("\\n").removesuffix("\\r")).replace("\\n", " ").replace("\\r", " "))
'''


def ctranslate2_script(tokenizers: TokenizerPair, *, max_seq_len: int) -> str:
    """The text of translate.py for a model with these tokenizers."""
    tgt = tokenizers.tgt
    return _CTRANSLATE2.format(
        **_common(tokenizers, max_seq_len),
        eos=tokenizers.src.token(tokenizers.src.eos_id),
        pad=tgt.token(tgt.pad_id),
        bos=tgt.token(tgt.bos_id),
    )


def onnx_script(tokenizers: TokenizerPair, *, max_seq_len: int, past_shape: tuple[int, ...]) -> str:
    """The text of translate.py for the encoder and decoder in ONNX; `past_shape` is that of the past of no token."""
    tgt = tokenizers.tgt
    return _ONNX.format(
        **_common(tokenizers, max_seq_len),
        bos_id=tgt.bos_id,
        eos_id=tgt.eos_id,
        never=[tgt.pad_id, tgt.bos_id, tgt.unk_id],
        past_shape=past_shape,
    )


def _common(tokenizers: TokenizerPair, max_seq_len: int) -> dict[str, object]:
    """The tokenizers' files and the limits of the length, which are those of `pytorch-dl translate`."""
    names, settings = SHARED if tokenizers.shared else SEPARATE, SearchSettings()
    return {
        "src": names[0],
        "tgt": names[-1],
        "longest": max_seq_len - 1,
        "ratio": settings.max_length_ratio,
        "offset": settings.max_length_offset,
        "max_seq_len": max_seq_len,
    }
