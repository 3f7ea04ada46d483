"""Damage to a folder's files, at random."""

import random
from pathlib import Path


def damaged(folder: Path, rng: random.Random) -> str:
    """Damage one file of the folder; returns what was done to which."""
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    content = bytearray(file.read_bytes())
    kind = rng.choice(("bit", "cut", "empty", "missing"))
    if kind == "bit":
        place = rng.randrange(len(content))
        content[place] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        return f"bit in byte {place} of {file.name}"
    if kind == "cut":
        length = rng.randrange(len(content.rstrip()) or 1)  # without its last line end JSON is as whole as with it
        file.write_bytes(content[:length])
        return f"{file.name} cut to {length} bytes"
    if kind == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    return f"{file.name}: {kind}"
