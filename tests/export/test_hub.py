"""Models on a hub that is a folder here: what is asked for, what is put there, and what is made of what comes back."""

import fnmatch
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from tiny_runs import TINY, call, environment, write_tsv

import pytorch_dl
from pytorch_dl.config import Config, get_config, load_config
from pytorch_dl.config.model_config import DataConfig
from pytorch_dl.errors import CheckpointError, ConfigError
from pytorch_dl.export.card import CODES, Card, languages, without_paths
from pytorch_dl.export.hub import FILES
from pytorch_dl.files import damage
from pytorch_dl.translator import Translator

huggingface_hub = pytest.importorskip("huggingface_hub")
LINES = ["ab cd ef", "gh ij", "mn", ""]


class FakeHub:
    """Repositories as folders; `asked` is what was asked of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[object, ...]] = []
        self.fetched: list[str] = []
        self.tokens: list[str | None] = []

    def snapshot_download(
        self, name: str, *, revision: str | None, local_dir: Path, allow_patterns: Sequence[str]
    ) -> str:
        self.asked.append(("download", name, revision))
        repository = self.folder / name
        if not repository.is_dir():
            raise huggingface_hub.errors.RepositoryNotFoundError(
                "404 Client Error.\nRepository not found", response=Answer()
            )
        files = [path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()]
        self.fetched = sorted(file for file in files if any(fnmatch.fnmatch(file, each) for each in allow_patterns))
        for file in self.fetched:
            (local_dir / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / file, local_dir / file, follow_symlinks=False)
        return str(local_dir)

    def api(self, token: str | None = None) -> "FakeHub":
        self.tokens.append(token)
        return self

    def create_repo(self, name: str, *, private: bool | None, exist_ok: bool) -> str:
        self.asked.append(("create", name, private))
        (self.folder / name).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://hub.example/{name}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        self.asked.append(("upload", repo_id))
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)


class Answer:
    """What an error of the library wants to know of its response."""

    headers: dict[str, str] = {}
    request = None
    status_code = 404


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
    return fake


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose settings tell its languages and name places of this machine."""
    from pytorch_dl.entry import execute

    folder = tmp_path_factory.mktemp("secret-place")
    for side, ending in ((0, "de"), (1, "fr")):
        pairs = (line.split("\t")[side] for line in write_tsv(folder / "all.tsv").read_text().splitlines())
        (folder / f"train.{ending}").write_text("".join(f"{text}\n" for text in pairs))
    given = ["--src", folder / "train.de", "--tgt", folder / "train.fr", "--split", "12", "--out", folder / "run"]
    settings = [f"data.cache_dir={folder / 'cache'}", f"logging.log_dir={folder / 'logs'}"]
    assert execute([*map(str, ["run", *given, "--beam", "2"]), *TINY, *settings]) == 0
    return folder / "run"


def front(readme: Path) -> dict[str, object]:
    head, _, body = readme.read_text().removeprefix("---\n").partition("---\n")
    assert body.startswith("# A model ")
    found: dict[str, object] = yaml.safe_load(head)
    return found


def test_what_is_put_there_comes_back_and_translates_the_same(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    first = pytorch_dl.load(run)
    assert first.push_to_hub("someone/dates", private=True, token="t") == "https://hub.example/someone/dates"
    assert hub.asked == [("create", "someone/dates", True), ("upload", "someone/dates")]
    assert hub.tokens == ["t"]
    for again in (Translator.from_pretrained("someone/dates"), pytorch_dl.load("hf://someone/dates")):
        assert again.translate(LINES) == first.translate(LINES)
        pairs = zip(first.model.parameters(), again.model.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    needed = {"config.yaml", "model/manifest.json", "model/model.safetensors"}
    needed |= {f"tokenizer/{name}" for name in ("manifest.json", "tokenizer.json", "tokenizer_meta.json")}
    assert set(hub.fetched) == needed
    assert hub.asked[2:] == [("download", "someone/dates", None)] * 2
    Translator.from_pretrained("someone/dates@v1")
    assert hub.asked[-1] == ("download", "someone/dates", "v1")
    assert sorted(path.name for path in (tmp_path / "home/pytorch-dl").iterdir()) == [
        "someone--dates",
        "someone--dates@v1",
    ]


def test_only_what_an_export_holds_can_be_asked_for(run: Path, tmp_path: Path) -> None:
    pytorch_dl.load(run).save_pretrained(tmp_path / "model")
    held = {
        path.relative_to(tmp_path / "model").as_posix() for path in (tmp_path / "model").rglob("*") if path.is_file()
    }
    assert set(FILES) - held == {"tokenizer/src.json", "tokenizer/tgt.json"}  # of two vocabularies
    assert held - set(FILES) == {"README.md", "export.json", "manifest.json"}
    assert damage(tmp_path / "model") is None


def test_the_card_tells_what_is_known_and_no_place_of_this_machine(run: Path, tmp_path: Path) -> None:
    pytorch_dl.load(run).save_pretrained(tmp_path / "model")
    head = front(tmp_path / "model/README.md")
    assert head["library_name"] == "pytorch-dl"
    assert head["pipeline_tag"] == "translation"
    assert head["language"] == ["de", "fr"]
    (entry,) = head["model-index"]
    assert entry["name"] == "model"
    (result,) = entry["results"]
    scores = {row["name"]: row["value"] for row in json.loads((run / "report.json").read_text())["scores"]}
    told = {row["type"]: row["value"] for row in result["metrics"]}
    assert told["chrf"] == round(scores["chrF2"], 2)
    assert told["exact_match"] == round(scores["exact match"], 2)
    body = (tmp_path / "model/README.md").read_text()
    assert "Scores of 12 pairs of the validation text, beam 2:" in body
    assert f"- chrF2: {scores['chrF2']:.2f} (" in body
    for path in (tmp_path / "model").rglob("*"):
        assert not path.is_file() or b"secret-place" not in path.read_bytes(), path
    config = load_config(tmp_path / "model/config.yaml")
    assert config.model == load_config(run / "config.yaml").model


def test_a_local_export_is_as_it_was(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "export", run, "--to", "safetensors", "--out", tmp_path / "out").code == 0
    assert (tmp_path / "out/README.md").read_text().startswith("# A model in safetensors\n")


def test_the_command_line_takes_and_gives_repositories(
    run: Path, hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = call(capsys, "export", run, "--to", "safetensors", "--out", "hf://someone/dates", "--private")
    assert (done.code, done.err) == (0, "https://hub.example/someone/dates\n")
    assert hub.asked == [("create", "someone/dates", True), ("upload", "someone/dates")]
    assert "pytorch-dl translate hf://someone/dates in.txt" in (hub.folder / "someone/dates/README.md").read_text()
    own = call(capsys, "translate", run, "--text", LINES[0])
    assert call(capsys, "translate", "hf://someone/dates", "--text", LINES[0]).out == own.out
    scored = [
        call(capsys, "evaluate", model, "--src", run.parent / "all.tsv", "--json")
        for model in (run, "hf://someone/dates")
    ]
    first, second = (json.loads(one.out)["scores"] for one in scored)
    assert first == second
    assert call(capsys, "export", "hf://someone/dates", "--to", "safetensors", "--out", tmp_path / "here").code == 0
    assert pytorch_dl.load(tmp_path / "here").translate(LINES[:1]) == own.out.splitlines()
    text, new = run.parent / "all.tsv", tmp_path / "new"
    given = ["--src", text, "--split", "12", "--beam", "1", "--out", new, "--weights-from", "hf://someone/dates"]
    begun = call(capsys, "run", *given, *TINY, "training.max_steps=1", "training.eval_every=1", "scheduler.warmup=1")
    assert begun.code == 0, begun.err
    assert "weights taken from hf://someone/dates: " in begun.err


def test_an_export_for_another_engine_goes_there_too(
    run: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ctranslate2")
    assert call(capsys, "export", run, "--to", "ctranslate2", "--out", "hf://someone/fast").code == 0
    assert (hub.folder / "someone/fast/model.bin").exists()
    assert front(hub.folder / "someone/fast/README.md")["library_name"] == "ctranslate2"


def link(repository: Path) -> None:
    path = repository / "model/model.safetensors"
    shutil.move(path, repository / "weights")
    path.symlink_to(repository / "weights")


def flip(repository: Path) -> None:
    path = repository / "model/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


def empty(repository: Path) -> None:
    shutil.rmtree(repository)
    repository.mkdir()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (link, "is not a plain file"),
        (flip, "model.safetensors does not match its checksum"),
        (empty, "hf://someone/dates: is no model of pytorch-dl: it has no config.yaml"),
        (shutil.rmtree, "hf://someone/dates: cannot be fetched: RepositoryNotFoundError: 404 Client Error"),
    ],
    ids=["a link", "a flipped bit", "nothing", "no repository"],
)
def test_what_comes_from_there_is_read_as_a_strangers(
    spoil: Callable[[Path], object], told: str, run: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    pytorch_dl.load(run).push_to_hub("someone/dates")
    spoil(hub.folder / "someone/dates")
    (hub.folder / "someone/dates").parent.mkdir(exist_ok=True)
    done = call(capsys, "translate", "hf://someone/dates", "--text", "ab")
    assert done.code == 4
    assert told in done.error_lines[0]


def test_a_folder_of_that_name_goes_first_and_nothing_else_is_asked(
    run: Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytorch_dl.load(run).save_pretrained(tmp_path / "someone/dates")
    monkeypatch.chdir(tmp_path)
    assert Translator.from_pretrained("someone/dates").translate(LINES) == pytorch_dl.load(run).translate(LINES)
    with pytest.raises(CheckpointError, match="no such run folder"):
        pytorch_dl.load("someone/none")
    assert hub.asked == []


def test_offline_without_a_copy_says_so(tmp_path: Path) -> None:
    """With the library itself, which asks no network then."""
    done = subprocess.run(
        [sys.executable, "-m", "pytorch_dl", "translate", "hf://someone/dates", "--text", "ab"],
        env={**environment(), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 4
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("pytorch-dl: ")]
    assert line.startswith("pytorch-dl: error: hf://someone/dates: cannot be fetched: ")
    assert "the network, and the login" in line


def test_a_model_of_no_run_needs_its_configuration(run: Path, tmp_path: Path) -> None:
    loaded = pytorch_dl.load(run)
    made = Translator(loaded.model, loaded.tokenizers)
    with pytest.raises(ConfigError, match="the model is from no run, and its configuration is not known"):
        made.save_pretrained(tmp_path / "model")
    made.save_pretrained(tmp_path / "model", config=loaded.read_config())
    assert "model-index" not in front(tmp_path / "model/README.md")
    assert Translator.from_pretrained(tmp_path / "model").translate(LINES) == loaded.translate(LINES)


def test_without_the_library_it_says_how_to_install_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'pytorch-dl\[hf\]'"):
        pytorch_dl.load("hf://someone/dates")
    with pytest.raises(ConfigError, match=r"pip install 'pytorch-dl\[hf\]'"):
        pytorch_dl.load(run).push_to_hub("someone/dates")


def test_private_is_for_repositories(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "export", run, "--to", "safetensors", "--out", tmp_path / "out", "--private")
    assert (done.code, "--private: is for repositories" in done.err) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"train_data_path": "a/train.en", "train_tgt_path": "a/train.de"}, ["en", "de"]),
        ({"train_data_path": "a/train.en.gz", "train_tgt_path": "a/train.de.xz"}, ["en", "de"]),
        ({"train_data_path": "train", "src_suffix": "en", "tgt_suffix": "sw"}, ["en", "sw"]),
        ({"train_data_path": "a.jsonl", "src_column": "translation.en", "tgt_column": "translation.de"}, ["en", "de"]),
        ({"train_data_path": "a.tsv", "src_column": "1", "tgt_column": "2"}, []),
        ({"train_data_path": "a/train.en", "train_tgt_path": "a/train.txt"}, []),
        ({"train_data_path": "pairs.tsv"}, []),
        ({}, []),
    ],
)
def test_languages_are_told_where_they_are_known(settings: dict[str, str], found: list[str]) -> None:
    assert languages(DataConfig(**settings)) == found


def test_the_codes_are_two_letters_each() -> None:
    assert len(CODES) == 183
    assert {len(code) for code in CODES} == {2}


def test_a_huge_perplexity_can_be_read_on_a_card() -> None:
    score = {"name": "perplexity", "value": 1.01e304, "low": 1e303, "high": 2e305, "signature": "tokens:9"}
    lines = Card.of("mine", Config(), {"scores": [score]}).lines()
    assert lines[-1] == "- perplexity: 1.0e+304 (1.0e+303 to 2.0e+305), tokens:9"


def test_a_card_of_a_model_that_was_not_evaluated() -> None:
    card = Card.of("mine", Config(), {})
    assert yaml.safe_load(card.metadata("onnx").strip("-\n")) == {
        "library_name": "onnx",
        "pipeline_tag": "translation",
        "tags": ["pytorch-dl", "encoder-decoder", "transformer"],
    }
    assert card.lines() == []


def test_paths_are_taken_out_of_a_configuration_and_nothing_else(tmp_path: Path) -> None:
    config = get_config("nano").update(
        data={
            "train_data_path": "/home/me/a",
            "corpora": [{"src": "/home/me/b"}],
            "val_split": 7,
            "tokenizer_name": str(tmp_path),
        },
        logging={"log_dir": "/home/me/logs"},
    )
    before = config.model_dump()
    public = without_paths(config)
    assert config.model_dump() == before
    assert public.problems() == []
    assert "/home" not in json.dumps(public.model_dump())
    assert public.data.tokenizer_name == tmp_path.name
    expected = get_config("nano").update(data={"tokenizer_name": tmp_path.name})
    assert public == expected
    assert (
        without_paths(get_config("nano").update(data={"tokenizer_name": "org/name"})).data.tokenizer_name == "org/name"
    )
