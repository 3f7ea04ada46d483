"""How many examples of a property are tried."""

from hypothesis import settings


def fewer(by: int) -> settings:
    """So many times fewer examples than elsewhere, of what takes long."""
    return settings(max_examples=max(4, settings.default.max_examples // by))
