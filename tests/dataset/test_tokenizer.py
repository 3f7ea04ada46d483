import json
import logging
import os
import sys
import types
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from stores import Pairs
from tokenizers import models
from tokenizers_of_others import END, LOOK_ALIKES, gpt2_like, pretrained, publish, t5_like, word_level

from pytorch_dl import files
from pytorch_dl.config import Config
from pytorch_dl.dataset import tokenizer_training
from pytorch_dl.dataset.pretrained_tokenizer import take_over
from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair, build_tokenizers, refuse_misspelt
from pytorch_dl.dataset.tokenizer_folder import META, Definition
from pytorch_dl.dataset.tokenizer_training import SMALLEST_VOCABULARY, TRAINERS, evenly_sampled
from pytorch_dl.errors import CheckpointError, ConfigError, DataError

TEXT = [
    ("The cat sat on the mat, and 12 cats slept.", "Die Katze saß auf der Matte, und 12 Katzen schliefen."),
    ("  Two  spaces and a tab\there ", "你好，世界 नमस्ते มาก"),
    ("</s> <pad> <unk> <s> ▁ <0x41>", "</s></s></s> ▁▁▁ <|endoftext|>"),
] * 5
any_text = st.lists(st.one_of(st.text(), st.sampled_from(LOOK_ALIKES))).map("".join)


def trained(name: str, *, vocab_size: int = 400, shared: bool = True) -> TokenizerPair:
    return build_tokenizers([Pairs(TEXT)], name=name, vocab_size=vocab_size, shared=shared)


ONE_OF_EACH = {name: trained(name).src for name in TRAINERS}


@pytest.mark.parametrize("name", TRAINERS)
class TestEachKindTrainedHere:
    @given(text=any_text)
    def test_no_text_changes_in_the_round_trip_or_gives_a_special_id(self, name: str, text: str) -> None:
        tokenizer = ONE_OF_EACH[name]
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not {0, 1, 2, 3} & set(ids)
        assert all(id < tokenizer.vocab_size for id in ids)

    def test_the_special_ids_are_the_first_four(self, name: str) -> None:
        tokenizer = ONE_OF_EACH[name]
        assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
        assert [tokenizer.token(id) for id in range(4)] == ["<pad>", "<s>", "</s>", "<unk>"]

    def test_a_batch_is_each_text_on_its_own(self, name: str) -> None:
        tokenizer, texts = ONE_OF_EACH[name], [*LOOK_ALIKES, "", "a cat", "मा"]
        assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
        assert tokenizer.decode_batch(tokenizer.encode_batch(texts)) == texts

    def test_special_ids_are_left_out_of_the_text(self, name: str) -> None:
        tokenizer = ONE_OF_EACH[name]
        assert tokenizer.decode([1, *tokenizer.encode("a cat"), 2, 0, 0]) == "a cat"

    def test_half_a_character_decodes_as_the_replacement_character(self, name: str) -> None:
        tokenizer = ONE_OF_EACH[name]
        assert tokenizer.decode(tokenizer.encode("a☃")[:-1]).startswith("a�")

    def test_the_same_text_trains_the_same_bytes(self, name: str) -> None:
        assert {trained(name).src.definition.json for _ in range(3)} == {ONE_OF_EACH[name].definition.json}

    def test_save_and_load_keep_ids_fingerprint_and_the_way_of_special_tokens(self, name: str, tmp_path: Path) -> None:
        pair = trained(name)
        pair.save(tmp_path / "t")
        loaded = TokenizerPair.load(tmp_path / "t")
        assert loaded.shared and loaded.src.fingerprint() == pair.src.fingerprint()
        for text in [*LOOK_ALIKES, "The cat"]:
            assert loaded.src.encode(text) == pair.src.encode(text)
        assert sorted(file.name for file in (tmp_path / "t").iterdir()) == [files.MANIFEST, "tokenizer.json", META]

    def test_a_larger_vocabulary_than_the_text_supports_has_its_real_size(self, name: str) -> None:
        tokenizer = trained(name, vocab_size=50_000).src
        assert SMALLEST_VOCABULARY <= tokenizer.vocab_size < 2_000
        assert len({tokenizer.token(id) for id in range(tokenizer.vocab_size)}) == tokenizer.vocab_size

    @pytest.mark.parametrize("vocab_size", [260, 261, 300])
    def test_a_small_vocabulary_is_kept_to(self, name: str, vocab_size: int) -> None:
        tokenizer = trained(name, vocab_size=vocab_size).src
        assert tokenizer.vocab_size <= vocab_size
        assert tokenizer.decode(tokenizer.encode("  naïve 中 ")) == "  naïve 中 "

    def test_too_small_a_vocabulary_names_the_least(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"data.vocab_size: got 259, but .* at least 260.*Fix: set it to 260"):
            trained(name, vocab_size=259)

    def test_one_tokenizer_for_each_side(self, name: str, tmp_path: Path) -> None:
        pair = trained(name, shared=False)
        assert not pair.shared
        pair.save(tmp_path / "t")
        assert sorted(f.name for f in (tmp_path / "t").iterdir()) == [files.MANIFEST, "src.json", "tgt.json", META]
        loaded = TokenizerPair.load(tmp_path / "t")
        assert not loaded.shared and loaded.src.fingerprint() == pair.src.fingerprint()
        assert loaded.tgt.definition == pair.tgt.definition


def test_learned_pieces_are_shorter_than_bytes() -> None:
    text = TEXT[0][0]
    lengths = {name: len(tokenizer.encode(text)) for name, tokenizer in ONE_OF_EACH.items()}
    assert lengths["byte"] == lengths["char"] == len(text)
    assert lengths["bpe"] < 20 and lengths["unigram"] < 30


def test_char_has_one_token_for_each_character_seen_and_bytes_for_others() -> None:
    tokenizer = ONE_OF_EACH["char"]
    assert len(tokenizer.encode("你ß好")) == 3
    assert len(tokenizer.encode("☃")) == len("☃".encode())


def test_the_first_word_is_like_any_other() -> None:
    tokenizer = ONE_OF_EACH["bpe"]
    assert tokenizer.encode("cats cats")[: len(tokenizer.encode("cats"))] == tokenizer.encode("cats")


def test_combining_marks_stay_with_their_word() -> None:
    stream = Pairs([("नमस्ते दुनिया", "x")] * 20)
    tokenizer = build_tokenizers([stream], name="bpe", vocab_size=400, shared=False).src
    assert len(tokenizer.encode("नमस्ते दुनिया")) == 2


def test_sides_change_nothing_but_their_own_tokenizer() -> None:
    other = [(src, "etwas ganz anderes") for src, _ in TEXT]
    first = trained("bpe", shared=False)
    second = build_tokenizers([Pairs(other)], name="bpe", vocab_size=400, shared=False)
    assert first.src.fingerprint() == second.src.fingerprint()
    assert first.tgt.fingerprint() != second.tgt.fingerprint()


def test_training_reports_what_it_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_training, "MAX_SENTENCES", 10)
    lines: list[str] = []
    pair = build_tokenizers([Pairs(TEXT)], name="bpe", vocab_size=300, shared=True, report=lines.append)
    size = pair.src.vocab_size
    assert lines == [f"tokenizer: bpe for both sides with {size} tokens, from 4 of 15 pairs, evenly spaced"]


def test_no_pairs_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"memory: no pairs to train a tokenizer on"):
        build_tokenizers([Pairs([])], name="bpe", vocab_size=300, shared=True)


class TestSample:
    def test_it_is_everything_while_it_fits(self) -> None:
        assert evenly_sampled([("a", "b"), ("c", "d")]) == ([("a", "b"), ("c", "d")], 2)

    @pytest.mark.parametrize("total", [0, 1, 99, 100, 101, 1000, 12345])
    def test_it_is_evenly_spaced_and_bounded(self, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokenizer_training, "MAX_SENTENCES", 200)
        kept, counted = evenly_sampled((f"s{number}", f"t{number}") for number in range(total))
        assert counted == total and min(total, 50) <= len(kept) <= 100
        numbers = [int(src[1:]) for src, _ in kept]
        stride = numbers[1] if len(numbers) > 1 else 1
        assert numbers == list(range(0, total, stride))

    def test_distinct_words_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokenizer_training, "MAX_DISTINCT_BYTES", 1000)
        kept, _ = evenly_sampled((f"{number:08d}",) for number in range(1000))
        assert 62 <= len(kept) <= 125
        assert len(evenly_sampled(("the same",) for _ in range(1000))[0]) == 1000


class TestParallelism:
    def test_children_stay_on_one_core(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from pytorch_dl.dataset import tokenizer as module

        monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
        module._first_use.cache_clear()
        with module._all_cores():
            assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
        assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with module._all_cores():
            assert os.environ["TOKENIZERS_PARALLELISM"] == "false"

    def test_the_users_choice_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from pytorch_dl.dataset import tokenizer as module

        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "0")
        module._first_use.cache_clear()
        with module._all_cores():
            assert os.environ["TOKENIZERS_PARALLELISM"] == "0"
        assert os.environ["TOKENIZERS_PARALLELISM"] == "0"


# ---- what load refuses


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    trained("byte").save(folder)
    return folder


def resign(folder: Path) -> None:
    """Make the manifest fit the files, as somebody who means harm would."""
    names = [file.name for file in folder.iterdir() if file.name != files.MANIFEST]
    (folder / files.MANIFEST).write_text(json.dumps({name: files.sha256(folder / name) for name in names}))


def edit(folder: Path, name: str, change: object) -> None:
    value = json.loads((folder / name).read_text())
    change(value)  # type: ignore[operator]
    (folder / name).write_text(json.dumps(value))
    resign(folder)


def same_eos_and_pad(meta: dict) -> None:
    meta["specials"]["tokenizer.json"]["eos"] = "<pad>"


def absent_eos(meta: dict) -> None:
    meta["specials"]["tokenizer.json"]["eos"] = "<nowhere>"


def no_eos(meta: dict) -> None:
    del meta["specials"]["tokenizer.json"]["eos"]


def giant_id(definition: dict) -> None:
    definition["model"]["vocab"]["a"] = 2**31


def no_words(definition: dict) -> None:
    definition["added_tokens"] = []
    definition["model"].update(vocab={}, merges=[])


def unknown_model(definition: dict) -> None:
    definition["model"]["type"] = "os.system"


HOSTILE = [
    (META, same_eos_and_pad, r"four different ids, got \[0, 1, 0, 3\]"),
    (META, absent_eos, r"lacks the special tokens \['<nowhere>'\]"),
    (META, no_eos, "one token for each of pad, bos, eos, unk"),
    (META, lambda meta: meta.update(version=99), "version 99, expected 1"),
    (META, lambda meta: meta.update(specials=[]), "no special tokens"),
    ("tokenizer.json", giant_id, r"ids up to 2147483648"),
    ("tokenizer.json", no_words, r"lacks the special tokens \['<pad>', '<s>', '</s>', '<unk>'\]"),
    ("tokenizer.json", unknown_model, "not a tokenizer definition"),
    ("tokenizer.json", lambda definition: definition["model"].update(merges=[["x", "nope"]]), "not a tokenizer def"),
    ("tokenizer.json", lambda definition: definition.clear(), "not a tokenizer definition"),
]


@pytest.mark.parametrize(("name", "change", "message"), HOSTILE)
def test_hostile_content_with_a_right_manifest_is_refused(saved: Path, name: str, change: object, message: str) -> None:
    edit(saved, name, change)
    with pytest.raises(CheckpointError, match=message):
        TokenizerPair.load(saved)


def no_unknown_word(definition: dict) -> None:
    vocabulary = {name: number for number, name in enumerate(("<pad>", "<s>", "</s>", "<unk>", "a"))}
    definition["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "nowhere"}


def second_text_alone(definition: dict) -> None:
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    definition["post_processor"] = {"type": "TemplateProcessing", "single": [second], "pair": [first, second]}
    definition["post_processor"]["special_tokens"] = {}


@pytest.mark.parametrize("change", [no_unknown_word, second_text_alone])
def test_a_definition_that_fails_at_work_is_refused(saved: Path, change: object) -> None:
    edit(saved, "tokenizer.json", change)
    tokenizer = TokenizerPair.load(saved).src
    for work in (tokenizer.encode, tokenizer.spans, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(CheckpointError, match="it fails on this text") as refused:
            work("b")
        assert str(refused.value).startswith(f"{saved}: this tokenizer cannot be used: ")


def test_no_definition_cuts_or_pads(saved: Path) -> None:
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    fill = {"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None}
    fill |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    whole = TokenizerPair.load(saved).src.encode("abc " * 9)
    edit(saved, "tokenizer.json", lambda definition: definition.update(truncation=cut, padding=fill))
    tokenizer = TokenizerPair.load(saved).src
    assert tokenizer.encode("abc " * 9) == tokenizer.encode_batch(["abc " * 9])[0] == whole and len(whole) > 2


@pytest.mark.parametrize("name", [files.MANIFEST, META, "tokenizer.json"])
class TestBrokenFile:
    def test_missing(self, saved: Path, name: str) -> None:
        (saved / name).unlink()
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            TokenizerPair.load(saved)

    def test_truncated(self, saved: Path, name: str) -> None:
        content = (saved / name).read_bytes()
        for length in (0, 1, len(content) // 2, len(content) - 3):
            (saved / name).write_bytes(content[:length])
            with pytest.raises(CheckpointError, match="damaged"):
                TokenizerPair.load(saved)

    def test_every_flipped_bit_is_found(self, saved: Path, name: str) -> None:
        content = bytearray((saved / name).read_bytes())
        for position in range(0, len(content) * 8, max(1, len(content) * 8 // 150)):
            content[position // 8] ^= 1 << position % 8
            (saved / name).write_bytes(content)
            with pytest.raises(CheckpointError, match="damaged"):
                TokenizerPair.load(saved)
            content[position // 8] ^= 1 << position % 8
        (saved / name).write_bytes(content)
        TokenizerPair.load(saved)

    def test_not_a_plain_file(self, saved: Path, name: str, tmp_path: Path) -> None:
        (saved / name).rename(tmp_path / "elsewhere")
        for make in (lambda p: p.symlink_to(tmp_path / "elsewhere"), os.mkfifo, lambda p: p.symlink_to("/dev/zero")):
            make(saved / name)
            with pytest.raises(CheckpointError, match=f"{name} is not a plain file"):
                TokenizerPair.load(saved)
            (saved / name).unlink()

    def test_huge(self, saved: Path, name: str) -> None:
        os.truncate(saved / name, 10 * 2**30)
        with pytest.raises(CheckpointError, match=f"{name} has 10,737,418,240 bytes, expected at most"):
            TokenizerPair.load(saved)

    def test_not_json(self, saved: Path, name: str) -> None:
        for content in (b"\x80\x04cos\nsystem\n", b"[" * 50_000, b"[]", b"null", b"\xff"):
            (saved / name).write_bytes(content)
            if name != files.MANIFEST:
                resign(saved)
            with pytest.raises(CheckpointError):
                TokenizerPair.load(saved)


@pytest.mark.parametrize("outside", ["../secret", "/etc/passwd", "a/../../secret"])
def test_a_manifest_that_names_files_outside_is_refused(saved: Path, outside: str) -> None:
    sums = json.loads((saved / files.MANIFEST).read_text()) | {outside: "0"}
    (saved / files.MANIFEST).write_text(json.dumps(sums))
    with pytest.raises(CheckpointError, match="does not name the files of a tokenizer"):
        TokenizerPair.load(saved)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path}/none: .* is not a folder"):
        TokenizerPair.load(tmp_path / "none")


# ---- pretrained


def special_tokens(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token(id) for id in (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id)]


class TestPretrained:
    def test_one_token_for_all_roles_as_in_gpt2_gets_new_ones(self, tmp_path: Path) -> None:
        name = publish(tmp_path / "g", gpt2_like(), bos_token=END, eos_token=END, unk_token=END)
        tokenizer = pretrained(name)
        assert special_tokens(tokenizer) == ["<pad>", "<bos>", END, "<unk>"]
        assert tokenizer.vocab_size == 258 + 3
        assert tokenizer.decode(tokenizer.encode(f"he {END}</s><pad>  he ")) == f"he {END}</s><pad>  he "

    def test_a_local_folder_of_a_published_name_goes_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(tmp_path / "gpt2", gpt2_like(), eos_token=END)
        monkeypatch.chdir(tmp_path)
        assert pretrained("gpt2").vocab_size == 261

    def test_the_old_ids_stay(self, tmp_path: Path) -> None:
        backend = gpt2_like()
        tokenizer = pretrained(publish(tmp_path / "g", backend, eos_token=END))
        assert tokenizer.encode("the cat's") == backend.encode("the cat's").ids

    def test_a_special_token_that_is_an_ordinary_piece_of_the_model_is_text(self, tmp_path: Path) -> None:
        specials = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        tokenizer = pretrained(publish(tmp_path / "t5", t5_like(), **specials))
        assert special_tokens(tokenizer) == ["<pad>", "<bos>", "</s>", "<unk>"]
        ids = tokenizer.encode("a</s>a <pad><bos> a")
        assert not {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id} & set(ids)
        assert tokenizer.decode(tokenizer.encode("a</s>a a")) == "a</s>a a"

    def test_nothing_is_added_cut_or_padded(self, tmp_path: Path) -> None:
        tokenizer = pretrained(publish(tmp_path / "t5", t5_like(), eos_token="</s>"))
        assert tokenizer.encode_batch(["a" * 9, "a"]) == [[3] + [5] * 9, [3, 5]]

    def test_what_the_model_writes_for_unknown_text_is_no_control_id(self, tmp_path: Path) -> None:
        every = dict.fromkeys(("pad_token", "bos_token", "eos_token", "unk_token"), "[UNK]")
        tokenizer = pretrained(publish(tmp_path / "w", word_level(), **every))
        assert special_tokens(tokenizer) == ["<pad>", "<bos>", "<eos>", "[UNK]"]
        assert tokenizer.encode("a strange [PAD] a") == [2, tokenizer.unk_id, 1, 2]
        assert set(tokenizer.encode("[UNK] <eos> <bos> <pad>")) == {tokenizer.unk_id}

    def test_a_control_token_of_one_character_becomes_unknown_in_text(self, tmp_path: Path) -> None:
        tokenizer = pretrained(publish(tmp_path / "w", word_level(), unk_token="[UNK]", eos_token="a"))
        assert tokenizer.encode("a") == [tokenizer.unk_id]

    def test_names_that_are_taken_are_not_given_twice(self, tmp_path: Path) -> None:
        specials = {"pad_token": "<pad>", "eos_token": "<pad>", "unk_token": "<unk>"}
        tokenizer = pretrained(publish(tmp_path / "t5", t5_like(), **specials))
        assert special_tokens(tokenizer) == ["<pad_2>", "<bos>", "<pad>", "<unk>"]

    @given(text=any_text)
    def test_no_text_gives_a_control_id(self, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
        if not hasattr(TestPretrained, "fuzzed"):
            folder = tmp_path_factory.mktemp("fuzz")
            gpt2 = publish(folder / "g", gpt2_like(), eos_token=END)
            t5 = publish(folder / "t", t5_like(), eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
            TestPretrained.fuzzed = [pretrained(gpt2), pretrained(t5)]
        for tokenizer in TestPretrained.fuzzed:
            assert not {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id} & set(tokenizer.encode(text))
        assert TestPretrained.fuzzed[0].decode(TestPretrained.fuzzed[0].encode(text)) == text

    def test_a_saved_one_needs_no_transformers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tokenizer = pretrained(publish(tmp_path / "g", gpt2_like(), eos_token=END))
        TokenizerPair(tokenizer, tokenizer).save(tmp_path / "saved")
        monkeypatch.setitem(sys.modules, "transformers", None)
        loaded = TokenizerPair.load(tmp_path / "saved")
        assert loaded.src.fingerprint() == tokenizer.fingerprint()
        again = build_tokenizers([], name=str(tmp_path / "saved"), vocab_size=1, shared=True)
        assert again.src.encode(f"he{END}") == tokenizer.encode(f"he{END}")
        assert not build_tokenizers([], name=str(tmp_path / "saved"), vocab_size=1, shared=False).shared

    def test_without_transformers_the_command_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(
            ConfigError, match=r"'gpt2' is none of bpe, unigram, char and byte, and .*pip install 'pytorch"
        ):
            build_tokenizers([], name="gpt2", vocab_size=1, shared=True)

    @pytest.mark.parametrize(
        ("name", "likely"),
        [
            ("chars", "char"),
            ("Characters", "char"),
            ("BPE", "bpe"),
            ("bbpe", "bpe"),
            ("byte-level", "byte"),
            ("unigramm", "unigram"),
        ],
    )
    def test_a_misspelt_name_is_not_looked_up_at_the_hub(
        self, name: str, likely: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        asked: list[str] = []

        def load(name: str) -> Definition:
            asked.append(name)
            return ONE_OF_EACH["char"].definition

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("pytorch_dl.dataset.tokenizer.load_pretrained", load)
        told = rf"^data.tokenizer_name: unknown tokenizer '{name}', did you mean '{likely}'\? Fix: give one of bpe, "
        with pytest.raises(ConfigError, match=told):
            build_tokenizers([], name=name, vocab_size=1, shared=True)
        assert asked == []
        Path(name).mkdir()
        for other in (name, f"org/{name}"):
            build_tokenizers([], name=other, vocab_size=1, shared=True)
        assert asked == [name, f"org/{name}"]

    @pytest.mark.parametrize(
        "name",
        [
            "gpt2",
            "bert-base-cased",
            "t5-small",
            "bart-large",
            "ctrl",
            "xlnet-base-cased",
            "roberta-base",
            "camembert-base",
        ],
    )
    def test_names_at_the_hub_are_not_called_misspelt(self, name: str) -> None:
        refuse_misspelt(name)

    def test_a_name_that_cannot_be_loaded_gives_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def from_pretrained(name: str, **options: object) -> None:
            assert options == {"trust_remote_code": False, "use_fast": True, "local_files_only": False}
            assert not logging.getLogger("huggingface_hub").isEnabledFor(logging.WARNING)
            raise OSError("We couldn't connect.\nMore lines.")

        stub = types.SimpleNamespace(AutoTokenizer=types.SimpleNamespace(from_pretrained=from_pretrained))
        monkeypatch.setitem(sys.modules, "transformers", stub)
        with pytest.raises(CheckpointError, match=r"'no/such' cannot be loaded: We couldn't connect. Fix:") as caught:
            take_over("no/such")
        assert "\n" not in str(caught.value)

    def test_a_slow_tokenizer_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        automatic = types.SimpleNamespace(from_pretrained=lambda *_, **__: object())
        monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(AutoTokenizer=automatic))
        with pytest.raises(CheckpointError, match="'slow' has only a slow tokenizer"):
            take_over("slow")

    def test_code_in_a_folder_is_not_run(self, tmp_path: Path) -> None:
        pytest.importorskip("transformers")
        folder = tmp_path / "evil"
        publish(folder, gpt2_like(), eos_token=END)
        canary = tmp_path / "canary"
        (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
        config = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "evil.Evil"}, "model_type": "evil"}))
        try:
            build_tokenizers([], name=str(folder), vocab_size=1, shared=True)
        except CheckpointError as error:
            assert "cannot be loaded" in str(error)
        assert not canary.exists()

    def test_an_empty_name_or_folder_is_refused(self, tmp_path: Path) -> None:
        pytest.importorskip("transformers")
        with pytest.raises(ConfigError, match=r"data.tokenizer_name: the name is empty"):
            build_tokenizers([], name=" ", vocab_size=1, shared=True)
        with pytest.raises(CheckpointError, match=r"the folder tokenizer .* cannot be loaded"):
            take_over(str(tmp_path))


def test_separate_tokenizers_cannot_serve_a_shared_vocabulary(tmp_path: Path) -> None:
    trained("bpe", shared=False).save(tmp_path / "two")
    with pytest.raises(ConfigError, match="holds a tokenizer for each side"):
        build_tokenizers([], name=str(tmp_path / "two"), vocab_size=1, shared=True)


def test_a_folder_with_a_tokenizer_for_each_side_can_be_configured(tmp_path: Path) -> None:
    pair = trained("bpe", shared=False)
    pair.save(tmp_path / "two")
    name = str(tmp_path / "two")
    apart = {"tokenizer_name": name, "shared_vocabulary": False}
    assert Config().update(data=apart, model={"tie_embeddings": "none"}).problems() == []
    loaded = build_tokenizers([], name=name, vocab_size=1, shared=False)
    assert loaded.src.definition == pair.src.definition and loaded.tgt.definition == pair.tgt.definition
    assert loaded.src.definition != loaded.tgt.definition


def test_sides_with_other_special_ids_are_refused() -> None:
    sides = []
    for pad, eos in ((0, 2), (2, 0)):
        vocabulary = {"<pad>": pad, "<s>": 1, "</s>": eos, "<unk>": 3}
        backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        specials = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}
        sides.append(Tokenizer(Definition(backend.to_str(), specials), where="here"))
    message = r"ids of the source are \[2, 1, 0\], expected those of the target, \[0, 1, 2\]\. Fix: choose two"
    with pytest.raises(CheckpointError, match=message):
        TokenizerPair(sides[1], sides[0])
    assert TokenizerPair(sides[1], sides[1]).shared


def test_a_token_id_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(IndexError, match="token id 260 is outside the vocabulary of 260"):
        ONE_OF_EACH["byte"].token(260)


def test_a_gap_in_the_ids_has_a_name() -> None:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 5}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    specials = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}
    tokenizer = Tokenizer(Definition(backend.to_str(), specials), where="here")
    assert (tokenizer.vocab_size, tokenizer.token(4), tokenizer.token(5)) == (6, "<unused_4>", "a")
