"""Models on the hub of Hugging Face: fetched into a folder of plain files, and put there.

The network is asked for nothing but what is named hf://ORG/NAME, or hf://ORG/NAME@REVISION. Of a repository those files
are fetched that `load` reads; they are a stranger's, and are read as such. Offline (HF_HUB_OFFLINE=1), what was fetched
before is used.
"""

from pathlib import Path
from typing import Any

from pytorch_dl.errors import CheckpointError, ConfigError

PREFIX = "hf://"
FILES = (
    "config.yaml",
    *(
        f"tokenizer/{name}"
        for name in ("manifest.json", "tokenizer_meta.json", "tokenizer.json", "src.json", "tgt.json")
    ),
    *(f"model/{name}" for name in ("manifest.json", "model.safetensors")),
)


def is_on_hub(run: str | Path) -> bool:
    """Whether it names no folder but a repository."""
    return str(run).startswith(PREFIX)


def local_folder(run: str | Path) -> Path:
    """The folder itself, or that into which hf://ORG/NAME is fetched."""
    return fetched(str(run).removeprefix(PREFIX)) if is_on_hub(run) else Path(run)


def fetched(name: str) -> Path:
    """Fetch ORG/NAME or ORG/NAME@REVISION, or what of it is new, into a folder below HF_HOME."""
    hub = _library()
    repository, _, revision = name.partition("@")
    folder = Path(hub.constants.HF_HOME) / "pytorch-dl" / name.replace("/", "--")
    try:
        hub.snapshot_download(repository, revision=revision or None, local_dir=folder, allow_patterns=list(FILES))
    except Exception as error:  # of the library, of what it asks the network by, and of the disk
        raise _refusal("fetched", name, error) from error
    if not (folder / FILES[0]).exists():
        raise CheckpointError(
            f"is no model of pytorch-dl: it has no {FILES[0]}", where=PREFIX + name, fix="see its files on the hub"
        )
    return folder


def put(folder: Path, name: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Put the files of an export into the repository ORG/NAME, which is made if need be; returns its address."""
    api = _library().HfApi(token=token)
    try:
        address = str(api.create_repo(name, private=private, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model of pytorch-dl")
    except Exception as error:
        raise _refusal("written", name, error) from error
    return address


def require_library() -> None:
    """Refuse, with the command that installs it, where the hub's library is missing."""
    _library()


def _library() -> Any:
    try:
        import huggingface_hub.constants  # which it has no attribute for until then
    except ImportError as error:
        raise ConfigError(
            "models on the hub need huggingface_hub, which is not installed", fix="pip install 'pytorch-dl[hf]'"
        ) from error
    return huggingface_hub


def _refusal(done: str, name: str, error: Exception) -> CheckpointError:
    why = next(iter(str(error).strip().splitlines()), "")
    return CheckpointError(
        f"cannot be {done}: {type(error).__name__}: {why}",
        where=PREFIX + name,
        fix="see the name ORG/NAME, the network, and the login (`hf auth login`)",
    )
