"""Parts of the model are named by a word or passed in: the one place that tells which."""

from collections.abc import Mapping
from typing import TypeVar

Part = TypeVar("Part")


def named(variants: Mapping[str, Part], name: str, *, argument: str) -> Part:
    """Return the variant of this name; `argument` is what the caller calls it."""
    if name not in variants:
        raise ValueError(f"{argument} must be a callable or one of {', '.join(variants)}, got {name!r}")
    return variants[name]
