import json
import random
from pathlib import Path

import numpy as np
import pytest
from hostile_files import sign
from privileges import no_privileges
from store_builders import build_at_once, write_text
from stores import BYTES, PAIRS, Cache, Pairs, assert_holds

from pytorch_dl import files
from pytorch_dl.dataset import token_store, token_writer
from pytorch_dl.dataset.text_files import TextSource
from pytorch_dl.dataset.text_pair import TextPair
from pytorch_dl.dataset.token_store import Corpus, TokenStore
from pytorch_dl.dataset.tokenizer import TokenizerPair, build_tokenizers
from pytorch_dl.errors import DataError, ResourceError


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_it_holds_the_ids_of_every_pair_in_order(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_writer, "_CHUNK_PAIRS", 10)
    store = cache.open(Pairs())
    assert_holds(store, PAIRS)
    assert store.src_ids.dtype == np.uint16 and store.src_offsets.dtype == store.tgt_offsets.dtype == np.int64
    assert store.src_lengths.dtype == np.int32
    assert store.src_lengths.tolist() == [len(src.encode()) for src, _ in PAIRS]
    assert store.tgt_lengths.tolist() == [len(tgt.encode()) for _, tgt in PAIRS]


def test_lengths_are_told_of_a_store_that_is_there(cache: Cache) -> None:
    assert token_store.stored_lengths([Pairs()], BYTES, cache_dir=cache.folder) is None
    store = cache.open(Pairs())
    src, tgt = token_store.stored_lengths([Pairs()], BYTES, cache_dir=cache.folder)
    assert np.array_equal(src, store.src_lengths) and np.array_equal(tgt, store.tgt_lengths)
    assert token_store.stored_lengths([Pairs(PAIRS[:5])], BYTES, cache_dir=cache.folder) is None
    (cache.stores[0] / "src_offsets").write_bytes(b"1234")
    assert token_store.stored_lengths([Pairs()], BYTES, cache_dir=cache.folder) is None


def test_long_texts_end_a_chunk_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_writer, "_CHUNK_CHARACTERS", 50)
    chunks = list(token_writer._chunks(TextPair("s" * 20, "t" * 20, line) for line in range(5)))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]


def test_it_is_memory_mapped_and_read_only(cache: Cache) -> None:
    store = cache.open(Pairs())
    for array in (store.src_ids, store.tgt_ids, store.src_offsets, store.tgt_offsets):
        assert isinstance(array.base, np.memmap) and not array.flags.writeable


def test_the_second_time_it_is_opened_not_built(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.open(Pairs())
    assert cache.built
    monkeypatch.setattr(token_store, "_build", lambda *_, **__: pytest.fail("built again"))
    assert_holds(cache.open(Pairs()), PAIRS)
    assert cache.reports == []


def test_several_streams_lie_one_after_the_other(cache: Cache) -> None:
    streams = (Pairs(PAIRS[:5], "a", 2.0), Pairs([], "none"), Pairs(PAIRS[5:], "b", 0.5))
    store = cache.open(*streams)
    assert_holds(store, PAIRS)
    assert store.corpora == [Corpus("a", 0, 5, 2.0), Corpus("none", 5, 5, 1.0), Corpus("b", 5, 57, 0.5)]


def test_another_weight_or_name_needs_no_new_store(cache: Cache) -> None:
    cache.open(Pairs(weight=1.0))
    store = cache.open(Pairs(weight=3.0, name="renamed"))
    assert not cache.built
    assert store.corpora == [Corpus("renamed", 0, 57, 3.0)]


def test_a_large_vocabulary_takes_four_bytes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BYTES.src, "vocab_size", 65_536)
    assert cache.open(Pairs()).src_ids.dtype == np.uint16
    monkeypatch.setattr(BYTES.src, "vocab_size", 65_537)
    other = Pairs(PAIRS[:3])
    store = cache.open(other)
    assert store.src_ids.dtype == store.tgt_ids.dtype == np.uint32
    assert_holds(store, PAIRS[:3])
    assert_holds(cache.open(other), PAIRS[:3])
    assert not cache.built


def test_empty_sides_are_kept(cache: Cache) -> None:
    pairs = [("", ""), ("", "")]
    store = cache.open(Pairs(pairs))
    assert_holds(store, pairs)
    assert len(store.src_ids) == 0 and store.src_lengths.tolist() == [0, 0]


def test_no_pairs_is_a_data_error_and_leaves_nothing(cache: Cache) -> None:
    with pytest.raises(DataError, match="a, b: there are no pairs"):
        cache.open(Pairs([], "a"), Pairs([], "b"))
    assert cache.stores == []


def test_progress_is_reported(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_writer, "_REPORT_EVERY", 20)
    monkeypatch.setattr(token_writer, "_CHUNK_PAIRS", 10)
    cache.open(Pairs())
    assert cache.reports[1:] == ["token store: 20 pairs tokenised", "token store: 40 pairs tokenised"]


class TestWhatChanged:
    def test_the_text(self, cache: Cache) -> None:
        cache.open(Pairs(name="a"), Pairs(name="b"))
        changed = [*PAIRS[:-1], ("the cat 57", PAIRS[-1][1])]
        assert_holds(cache.open(Pairs(name="a"), Pairs(changed, "b")), PAIRS + changed)
        [report] = cache.reports
        assert report.endswith(", because b changed since the last one")
        assert len(cache.stores) == 2

    def test_the_tokenizer(self, cache: Cache) -> None:
        cache.open(Pairs())
        characters = build_tokenizers([Pairs()], name="char", vocab_size=300, shared=True)
        assert_holds(cache.open(Pairs(), tokenizers=characters), PAIRS, characters)
        assert cache.reports[0].endswith(", because the tokenizer changed since the last one")

    def test_which_side_the_tokenizer_is_for(self, cache: Cache) -> None:
        characters = build_tokenizers([Pairs()], name="char", vocab_size=300, shared=True).src
        for pair in (TokenizerPair(BYTES.src, characters), TokenizerPair(characters, BYTES.src)):
            assert_holds(cache.open(Pairs(), tokenizers=pair), PAIRS, pair)
            assert cache.built

    def test_the_version(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        cache.open(Pairs())
        monkeypatch.setattr(token_store, "STORE_VERSION", 99)
        cache.open(Pairs())
        assert cache.reports[0].endswith(", because the layout of stores changed since the last one")

    def test_the_order_of_streams(self, cache: Cache) -> None:
        cache.open(Pairs(PAIRS[:5], "a"), Pairs(PAIRS[5:], "b"))
        assert_holds(cache.open(Pairs(PAIRS[5:], "b"), Pairs(PAIRS[:5], "a")), PAIRS[5:] + PAIRS[:5])
        assert cache.built

    def test_foreign_files_in_the_cache_are_passed_over(self, cache: Cache) -> None:
        for number, content in enumerate([b"", b"[]", b"\xff", b"[" * 50_000, b'{"parts": 3, "names": ["memory"]}']):
            (cache.folder / str(number)).mkdir(parents=True)
            (cache.folder / str(number) / "meta.json").write_bytes(content)
        cache.open(Pairs())
        assert "because" not in cache.reports[0]


def test_every_changed_byte_of_a_file_is_seen(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "a.src").write_text("".join(f"{src}\n" for src, _ in PAIRS))
    (tmp_path / "a.tgt").write_text("".join(f"{tgt}\n" for _, tgt in PAIRS))
    source = TextSource(str(tmp_path / "a.src"), str(tmp_path / "a.tgt"))
    assert_holds(cache.open(source), PAIRS)
    content = (tmp_path / "a.src").read_bytes()
    places = random.Random(0).sample([place for place, byte in enumerate(content) if byte != 10], 20)
    for place in places:
        (tmp_path / "a.src").write_bytes(content[:place] + b"#" + content[place + 1 :])
        cache.open(source)
        assert cache.built
    (tmp_path / "a.src").write_bytes(content)
    cache.open(source)
    assert not cache.built


def test_a_text_that_changes_while_it_is_read_is_refused(cache: Cache) -> None:
    with pytest.raises(DataError, match="memory: the text changed while it was read"):
        cache.open(Pairs(fingerprints=iter(["old", "new"])))
    assert cache.stores == []


class TestDamage:
    def test_every_flipped_bit_is_found(self, cache: Cache) -> None:
        cache.open(Pairs(PAIRS[:4]))
        [folder] = cache.stores
        pristine = {path: path.read_bytes() for path in folder.iterdir()}
        assert len(pristine) == 6
        parts = token_store._key_parts([Pairs(PAIRS[:4])], BYTES)
        chance = random.Random(0)
        for _ in range(600):
            path, content = chance.choice(list(pristine.items()))
            broken = bytearray(content)
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
            path.write_bytes(broken)
            assert isinstance(token_store._open(folder, [Pairs(PAIRS[:4])], parts, BYTES), str)
            path.write_bytes(content)
        assert isinstance(token_store._open(folder, [Pairs(PAIRS[:4])], parts, BYTES), TokenStore)

    @pytest.mark.parametrize("name", ["src_ids", "tgt_ids", "src_offsets", "tgt_offsets", "meta.json", files.MANIFEST])
    @pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "missing", "a link"])
    def test_it_is_built_anew_and_said(self, cache: Cache, name: str, how: str, tmp_path: Path) -> None:
        cache.open(Pairs())
        [folder] = cache.stores
        path, content = folder / name, (folder / name).read_bytes()
        path.unlink()
        if how == "a link":
            (tmp_path / "elsewhere").write_bytes(b"x")
            path.symlink_to(tmp_path / "elsewhere")
        elif how != "missing":
            flipped = bytes([content[0] ^ 1]) + content[1:]
            path.write_bytes({"flipped": flipped, "truncated": content[: len(content) // 2], "empty": b""}[how])
        assert_holds(cache.open(Pairs()), PAIRS)
        assert len(cache.reports) == 1
        assert cache.reports[0].startswith(f"token store {folder} is damaged (")
        assert cache.reports[0].endswith("); building it anew")
        cache.open(Pairs())
        assert not cache.built and cache.stores == [folder]

    def test_the_report_says_why(self, cache: Cache) -> None:
        cache.open(Pairs())
        (cache.stores[0] / "tgt_ids").write_bytes(b"")
        cache.open(Pairs())
        assert "is damaged (tgt_ids does not match its checksum)" in cache.reports[0]

    def test_a_manifest_that_leaves_a_file_out_is_found(self, cache: Cache) -> None:
        cache.open(Pairs())
        [folder] = cache.stores
        sums = json.loads((folder / files.MANIFEST).read_text())
        del sums["src_ids"]
        (folder / files.MANIFEST).write_text(json.dumps(sums))
        cache.open(Pairs())
        assert "is damaged (manifest.json names other files than those of a store)" in cache.reports[0]

    def test_a_foreign_folder_pickle_or_file_of_that_name_is_replaced(self, cache: Cache) -> None:
        cache.open(Pairs())
        [folder] = cache.stores
        for strange in ("empty", "pickle", "manifest of nothing", "file"):
            for path in folder.iterdir():
                path.unlink()
            if strange == "pickle":
                (folder / "store.pkl").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
            elif strange == "manifest of nothing":
                (folder / files.MANIFEST).write_text("{}")
            elif strange == "file":
                folder.rmdir()
                folder.write_text("a file")
            assert_holds(cache.open(Pairs()), PAIRS)
            assert "is damaged" in cache.reports[0]

    @pytest.mark.parametrize(
        "change",
        [
            {"dtype": "|O"},
            {"dtype": "<u4"},
            {"pairs": 56},
            {"src_tokens": 1},
            {"spans": [[0, 99]]},
            {"spans": []},
            {"spans": [[0, 3], [3, 57]]},
            {"parts": {}},
            {"pairs": "57"},
            "[" * 50_000,
        ],
    )
    def test_wrong_content_with_a_right_manifest_is_found(self, cache: Cache, change: dict | str) -> None:
        cache.open(Pairs())
        [folder] = cache.stores
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(change if isinstance(change, str) else json.dumps(meta | change))
        sign(folder)
        assert_holds(cache.open(Pairs()), PAIRS)
        assert "is damaged" in cache.reports[0]

    @pytest.mark.parametrize(
        ("name", "place", "number", "message"),
        [
            ("src_offsets", 0, 1, "src_offsets do not rise from 0 to"),
            ("src_offsets", 3, 2**40, "src_offsets do not rise from 0 to"),
            ("tgt_offsets", -1, 5, "tgt_offsets do not rise from 0 to"),
            ("tgt_offsets", 2, -1, "tgt_offsets do not rise from 0 to"),
            ("src_ids", 7, 60_000, "src_ids go up to 60000, the tokenizer has"),
        ],
    )
    def test_numbers_that_lead_nowhere_with_a_right_manifest_are_found(
        self, cache: Cache, name: str, place: int, number: int, message: str
    ) -> None:
        cache.open(Pairs())
        [folder] = cache.stores
        numbers = np.fromfile(folder / name, token_store.OFFSETS if "offsets" in name else "<u2")
        numbers[place] = number
        numbers.tofile(folder / name)
        sign(folder)
        assert_holds(cache.open(Pairs()), PAIRS)
        assert message in cache.reports[0]

    def test_a_failed_build_keeps_what_was_there(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        cache.open(Pairs())

        def fail(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(token_store, "write_token_files", fail)
        with pytest.raises(KeyboardInterrupt):
            cache.open(Pairs(PAIRS[:3]))
        assert len(cache.stores) == 1
        assert_holds(cache.open(Pairs()), PAIRS)
        assert not cache.built


def test_what_a_killed_builder_left_is_removed(cache: Cache) -> None:
    left = cache.folder / ".pytorch-dl-tmp-0123456789abcdef.99"
    left.mkdir(parents=True)
    (left / "src_ids").write_bytes(b"half")
    cache.open(Pairs())
    assert len(cache.stores) == 1
    assert not left.exists()


def test_what_others_write_beside_stores_is_left_alone(cache: Cache) -> None:
    """The folder may be one of exports, or of runs, as well."""
    with files.new_folder(cache.folder / "export") as export:
        (export / "weights").write_text("half")
        cache.open(Pairs())
        assert (export / "weights").read_text() == "half"
    assert files.damage(cache.folder / "export") is None


def test_a_cache_that_cannot_be_written_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=f"{tmp_path}/file/cache: cannot build a token store here: Not a directory"):
        Cache(tmp_path / "file" / "cache").open(Pairs())


def test_a_read_only_cache_serves_what_it_has(cache: Cache) -> None:
    cache.open(Pairs())
    cache.folder.chmod(0o500)
    try:
        with no_privileges():
            assert_holds(cache.open(Pairs()), PAIRS)
            with pytest.raises(ResourceError, match="Permission denied"):
                cache.open(Pairs(PAIRS[:3]))
    finally:
        cache.folder.chmod(0o700)


def test_processes_that_build_at_once_end_with_one_store(tmp_path: Path) -> None:
    source = write_text(tmp_path, times=300)
    outputs = [builder.communicate() for builder in build_at_once(tmp_path, 3)]
    assert [error for _, error in outputs] == ["", "", ""]
    assert len({output.splitlines()[-1] for output, _ in outputs}) == 1
    assert sum("building /" in output for output, _ in outputs) == 1
    cache = Cache(tmp_path / "cache")
    cache.open(source)
    assert not cache.built and len(cache.stores) == 1
    assert sorted(path.name for path in cache.folder.iterdir()) == [".build.lock", cache.stores[0].name]
