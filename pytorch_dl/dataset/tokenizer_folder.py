"""The folder of a tokenizer pair: definitions as JSON, the special token of each role, a manifest.

One definition for both sides is tokenizer.json; one for each is src.json and tgt.json. What is read may come from
anyone: nothing but these plain files of bounded size is opened, and whatever is wrong is a CheckpointError.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_dl import files
from pytorch_dl.errors import CheckpointError
from pytorch_dl.plain_files import strangeness

META = "tokenizer_meta.json"
SHARED = ("tokenizer.json",)
SEPARATE = ("src.json", "tgt.json")
ROLES = ("pad", "bos", "eos", "unk")
_VERSION = 1
_MAX_BYTES = {files.MANIFEST: 100_000, META: 100_000}
_MAX_DEFINITION_BYTES = 256 * 2**20  # the largest published ones have about 35 MB


class Definition(NamedTuple):
    """A tokenizer on paper: the JSON of `tokenizers`, and the token of each role (pad, bos, eos, unk)."""

    json: str
    specials: dict[str, str]


def write_tokenizer_folder(folder: Path, definitions: dict[str, Definition]) -> None:
    """Write the definitions, keyed by file name (SHARED or SEPARATE), and their special tokens."""
    with files.new_folder(folder) as new:
        for name, definition in definitions.items():
            files.write_file(new / name, definition.json)
        specials = {name: definition.specials for name, definition in definitions.items()}
        files.write_json(new / META, {"version": _VERSION, "specials": specials})


def read_tokenizer_folder(folder: Path) -> list[Definition]:
    """Return the definitions of a folder, one for both sides or source and target, after checking every sum."""
    _require(folder.is_dir(), folder, "is not a folder")
    manifest = _object(folder, files.MANIFEST)
    names = next((names for names in (SHARED, SEPARATE) if set(manifest) == {*names, META}), None)
    if names is None:
        raise _refusal(
            folder, f"its {files.MANIFEST} does not name the files of a tokenizer, but {sorted(manifest)[:5]}"
        )
    for name in names:
        _check_plain(folder, name)
    meta = _object(folder, META)
    damage = files.damage(folder)
    _require(damage is None, folder, str(damage))
    _require(
        meta.get("version") == _VERSION, folder, f"{META} has version {meta.get('version')!r}, expected {_VERSION}"
    )
    specials = meta.get("specials")
    _require(isinstance(specials, dict), folder, f"{META} has no special tokens")
    assert isinstance(specials, dict)
    return [Definition(_text(folder, name), _roles(folder, specials.get(name))) for name in names]


def _roles(folder: Path, found: object) -> dict[str, str]:
    whole = isinstance(found, dict) and set(found) == set(ROLES) and all(isinstance(t, str) for t in found.values())
    _require(whole, folder, f"{META} must give one token for each of {', '.join(ROLES)}")
    assert isinstance(found, dict)
    return {role: found[role] for role in ROLES}


def _object(folder: Path, name: str) -> dict[str, Any]:
    _check_plain(folder, name)
    try:
        value = json.loads(_text(folder, name))
    except (ValueError, RecursionError) as error:
        raise _refusal(folder, f"{name} is not JSON ({error})") from error
    _require(isinstance(value, dict), folder, f"{name} is not a JSON object")
    assert isinstance(value, dict)
    return value


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _refusal(folder, f"{name} cannot be read ({error})") from error


def _check_plain(folder: Path, name: str) -> None:
    """Refuse links, pipes, devices and giants before anything is read from them."""
    strange = strangeness(folder / name, most=_MAX_BYTES.get(name, _MAX_DEFINITION_BYTES))
    _require(strange is None, folder, f"{name} {strange}")


def _require(holds: bool, folder: Path, what: str) -> None:
    if not holds:
        raise _refusal(folder, what)


def _refusal(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"this tokenizer folder is damaged: {what}", where=str(folder), fix="restore it from a copy, or build it anew"
    )
