"""What reads files and words of strangers: each target takes any bytes, and may raise a UserError and nothing else.

A target is made in a folder of its own; its seeds are valid inputs.
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import tokenizers
import torch
import yaml
import zstandard

from pytorch_dl import entry
from pytorch_dl.config import load_config
from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.config.templates import TEMPLATES
from pytorch_dl.dataset.text_files import TextSource
from pytorch_dl.dataset.token_store import META, open_or_build
from pytorch_dl.dataset.tokenizer import Tokenizer, build_tokenizers
from pytorch_dl.dataset.tokenizer_folder import ROLES, Definition
from pytorch_dl.dataset.tokenizer_training import SPECIALS
from pytorch_dl.errors import UserError
from pytorch_dl.failures import told
from pytorch_dl.files import MANIFEST, sha256, write_json
from pytorch_dl.generation.constraints import Constraints
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training import rotation
from pytorch_dl.training.ending import seconds_left
from pytorch_dl.training.progress import duration
from pytorch_dl.training.train_state import TrainState
from pytorch_dl.training.update import WeightUpdate
from pytorch_dl.translating import read

TEXT = "ab cd\tef gh\nij\tkl mn \u2028 é\n"
PLAIN, SIGNED = b"0", b"1"  # the first byte: is the manifest the input, or does it fit the input?
WORK = (  # of the commands, which is not done
    "pytorch_dl.run.start",
    "pytorch_dl.run.go_on",
    "pytorch_dl.commands.print_verified",
    "pytorch_dl.commands.print_replayed",
    "pytorch_dl.commands.print_checkup",
    "pytorch_dl.commands.print_check",
    "pytorch_dl.translating.translate_lines",
    "pytorch_dl.evaluating.print_evaluation",
    "pytorch_dl.exporting.export_run",
    "pytorch_dl.export.hub.fetched",
    "pytorch_dl.serving.server.serve_run",
    "pytorch_dl.demo.demonstrate",
    "pytorch_dl.cli.subprocess.run",
)
COMMANDS = (
    "run --src a.tsv --split 12 --out run --weights-from other model.d_model=64 scheduler.name=wsd",
    "run --src a.en --tgt a.de --val-src b.en --val-tgt b.de --preset nano --beam 4 training.max_steps=100k",
    "train config.yaml --out run data.corpora=[{src: a, weight: 0.5}] training.time_limit=45min",
    "translate run file.txt --beam 4 --nbest 2 --json --align --out out.txt --resume",
    "translate run -t text --sample --temperature 0.7 --top-k 5 --top-p 0.9 --min-p 0.1 --seed 3 --prefix a --ban b",
    "translate run --length-penalty 0.6 --length-norm gnmt --early-stopping sure --groups 2 --diversity 1 --require c",
    "translate run --max-ratio 2 --max-offset 10 --min-length 2 --no-repeat 3 --device cpu --precision int8 --jsonl",
    "evaluate run --src a.tsv --ref b --compare c --no-ter --bleu-tokenizer zh --save d --json",
    "export run --to ctranslate2 --out folder --quantization int8 --private",
    "serve run --host 0.0.0.0 --port 8000 --max-lines 5 --max-characters 100 --max-waiting 7 --max-seconds 2.5",
    "check --src a.tsv --json data.on_blank=drop",
    "replay run --step 7",
    "doctor folder --kills 0",
    "config show tiny --json",
    "config schema",
    "resume run --help",
)


class Target(NamedTuple):
    """What takes the bytes, and bytes that it is content with."""

    feed: Callable[[bytes], object]
    seeds: Sequence[bytes]


def config_yaml(folder: Path) -> Target:
    return _config(folder / "config.yaml", yaml.safe_dump)


def config_json(folder: Path) -> Target:
    return _config(folder / "config.json", lambda tree: json.dumps(tree, indent=1))


def _config(path: Path, write: Callable[[Any], str]) -> Target:
    corpora = [{"src": "a", "tgt": "é", "weight": 0.5}, {"src": "b.tsv", "src_column": 1, "tgt_column": "2"}]
    odd = {
        "data": {"corpora": corpora, "src_suffix": "no", "tgt_suffix": "de", "pin_memory": False},
        "training": {"time_limit": "45min", "max_steps": "100k", "max_grad_norm": None, "mixed_precision": "bf16"},
        "scheduler": {"warmup": 1e-1, "name": "wsd"},
    }

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        load_config(path)

    return Target(feed, [write(tree).encode() for tree in (*TEMPLATES.values(), odd)])


def checkpoint(folder: Path) -> Target:
    """The manifest, or the state below a manifest that fits: whatever passes, training can go on from."""
    model, optimizer = _trained()
    half = WeightUpdate(model, optimizer, settings=TrainingConfig(), schedule=None, precision="fp16")
    states = [TrainState(step=1, best_value=0.5), TrainState(step=1, precision="fp16", scaler=half.scaler.state_dict())]
    path = ckpt.save_checkpoint(folder, 1, ckpt.contents(model, optimizer, None), state=states[0].to_json())
    begun = {name: (path / name).read_bytes() for name in (ckpt.STATE, MANIFEST)}

    def feed(data: bytes) -> None:
        _write(path, begun, data, ckpt.STATE)
        found = ckpt.newest_valid(folder, lambda _: None)
        assert found is not None
        half.restore(found, state := ckpt.read_train_state(found), lambda _: None)
        rotation.validated(folder, 2)
        duration(seconds_left(state, TrainingConfig(), 100_000))

    signed = [SIGNED + json.dumps(state.to_json(), indent=1).encode() for state in states]
    return Target(feed, [PLAIN + begun[MANIFEST], *signed])


def token_store(folder: Path) -> Target:
    """The header, or the manifest: what is opened, or built anew, holds the ids of the text."""
    text = folder / "text.tsv"
    text.write_text(TEXT)
    streams = [TextSource(str(text))]
    pair = build_tokenizers(streams, name="byte", vocab_size=260, shared=True)
    expected = [pair.src.encode(one.src) for one in streams[0]]

    def opened() -> list[list[int]]:
        store = open_or_build(streams, pair, cache_dir=folder / "cache", report=lambda _: None)
        return [store.src(number).tolist() for number in range(len(store))]

    assert opened() == expected
    (path,) = (meta.parent for meta in (folder / "cache").glob(f"*/{META}"))
    begun = {name: (path / name).read_bytes() for name in (META, MANIFEST)}

    def feed(data: bytes) -> None:
        _write(path, begun, data, META)
        assert opened() == expected, "ids of another text"

    return Target(feed, [PLAIN + begun[MANIFEST], SIGNED + begun[META]])


def _write(path: Path, begun: dict[str, bytes], data: bytes, name: str) -> None:
    """Restore a folder's files, and let the input stand in place of the manifest, or of the file beside it."""
    for file, content in begun.items():
        (path / file).write_bytes(content)
    if data[:1] == PLAIN:
        (path / MANIFEST).write_bytes(data[1:])
    else:
        (path / name).write_bytes(data[1:])
        files = (file for file in sorted(path.iterdir()) if file.name != MANIFEST)
        write_json(path / MANIFEST, {file.name: sha256(file) for file in files})


def safetensors(folder: Path) -> Target:
    """As the weights of a model, and as the state of its optimizer."""
    model, optimizer = _trained()
    path = ckpt.save_checkpoint(folder / "seed", 1, ckpt.contents(model, optimizer, None), state={})
    spoilt = folder / "spoilt.safetensors"

    def feed(data: bytes) -> None:
        spoilt.unlink(missing_ok=True)  # another file: what was read from it may still be mapped
        spoilt.write_bytes(data)
        with contextlib.suppress(UserError):
            ckpt.load_weights(model, ckpt.read_tensors(spoilt), where="weights")
        with contextlib.suppress(UserError):
            ckpt.load_optimizer(model, torch.optim.AdamW(model.parameters()), spoilt)

    return Target(feed, [(path / name).read_bytes() for name in (ckpt.MODEL, ckpt.OPTIMIZER)])


def _trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def tokenizer(folder: Path) -> Target:
    def feed(data: bytes) -> None:
        try:
            definition = data.decode()
        except UnicodeDecodeError:
            return  # refused where the file is read
        made = Tokenizer(Definition(definition, dict(zip(ROLES, SPECIALS, strict=True))), where="tokenizer.json")
        for text in ("ab cd", "</s>é\u2028 ab" * 3, ""):
            ids = made.encode_batch([text])[0]
            assert ids == made.encode(text) and all(0 <= id < made.vocab_size for id in ids)
            made.decode(ids)
            made.spans(text)
            made.decoded_spans(ids)
            made.fingerprint()
            [made.piece(id) for id in ids]

    return Target(feed, [json.dumps(json.loads(made.to_str())).encode() for made in _tokenizers()])


def _tokenizers() -> Iterator[tokenizers.Tokenizer]:
    """Small ones of each kind."""
    models, pre = tokenizers.models, tokenizers.pre_tokenizers
    words = [*SPECIALS, "a", "b", "c", "ab", "Ġ", "Ã", "##b"]
    vocabulary = {word: number for number, word in enumerate(words)}
    kinds = (
        models.BPE(vocabulary, [("a", "b")], unk_token="<unk>"),
        models.BPE(vocabulary, [("a", "b")], byte_fallback=True, fuse_unk=True, unk_token="<unk>"),
        models.WordPiece(vocabulary, unk_token="<unk>"),
        models.WordLevel(vocabulary, unk_token="<unk>"),
        models.Unigram([(word, -float(number)) for word, number in vocabulary.items()], 3, True),
    )
    splits = (pre.ByteLevel(), pre.Metaspace(), pre.BertPreTokenizer(), pre.Whitespace(), pre.Digits())
    ends = tokenizers.decoders
    decoders = (ends.ByteLevel(), ends.Metaspace(), ends.WordPiece(), ends.Fuse(), ends.ByteFallback())
    for model, split, decoder in zip(kinds, splits, decoders, strict=True):
        made = tokenizers.Tokenizer(model)
        made.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.NFKC()])
        made.pre_tokenizer, made.decoder = tokenizers.pre_tokenizers.Sequence([split]), decoder
        made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
        made.add_special_tokens(list(SPECIALS))
        yield made


def text_reader(folder: Path) -> Target:
    """The first byte tells the form; the second file of two is not changed."""
    other = folder / "other.txt"
    other.write_text("x\ny\n")
    forms = {
        b"2": TextSource(str(folder / "text.txt"), str(other), on_blank="drop"),
        b"t": TextSource(str(folder / "text.tsv")),
        b"n": TextSource(str(folder / "text.TSV"), src_column="2", tgt_column="1", on_blank="drop"),
        b"c": TextSource(str(folder / "text.csv"), on_blank="drop"),
        b"j": TextSource(str(folder / "text.jsonl"), on_blank="drop"),
    }
    wishes = folder / "wishes.jsonl"

    def feed(data: bytes) -> None:
        if data[:1] == b"w":  # lines to translate
            wishes.write_bytes(data[1:])
            for line in read(None, wishes, Constraints(), jsonl=True):
                "".join((line.text, line.constraints.prefix, *line.constraints.banned)).encode()
            return
        source = forms.get(data[:1], forms[b"t"])
        source.paths[0].write_bytes(data[1:])
        list(source.scan())
        source.fingerprint()
        list(source)
        source.remarks()

    csv = b'src,tgt\n"a ""b"", c","d\ne"\nf,g\n'
    lines = [json.dumps({"src": "a é", "tgt": "b"}), json.dumps({"src": "c\u2028", "tgt": "d"}, ensure_ascii=False)]
    packers = (bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress)
    nested = b'{"translation": {"de": "a", "en": "b"}}\n'
    wish = b'{"text": "a", "prefix": "b", "ban": ["c d"], "require": ["e", "f"]}\n{"text": "\\u00e9"}\n'
    plain = [b"2" + TEXT.encode(), b"n" + TEXT.encode(), b"c" + csv, b"j" + "\n".join(lines).encode(), b"j" + nested]
    plain.append(b"w" + wish)
    return Target(feed, [*plain, *(b"t" + pack(TEXT.encode()) for pack in packers)])


def arguments(folder: Path) -> Target:
    """The words of a command, one a line, up to the work that it would begin."""
    (folder / "config.yaml").write_text("model: {d_model: 64}\n")

    def refuse_bugs(error: BaseException) -> tuple[str, int]:
        line, code = told(error)
        if code == 1:
            raise error
        return line, code

    def feed(data: bytes) -> None:
        words = data.decode(errors="surrogateescape").replace("\0", "").split("\n")
        with contextlib.ExitStack() as stack:
            for name in WORK:
                stack.enter_context(mock.patch(name, lambda *given, **options: SimpleNamespace(returncode=0)))
            stack.enter_context(mock.patch.object(entry, "told", refuse_bugs))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            stack.enter_context(contextlib.chdir(folder))
            with contextlib.suppress(SystemExit):
                entry.execute(words)

    return Target(feed, [command.replace(" ", "\n").encode() for command in COMMANDS])


TARGETS: dict[str, Callable[[Path], Target]] = {
    "config YAML": config_yaml,
    "config JSON": config_json,
    "checkpoint JSON": checkpoint,
    "token store": token_store,
    "safetensors": safetensors,
    "tokenizer": tokenizer,
    "text": text_reader,
    "arguments": arguments,
}
