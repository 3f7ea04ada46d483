"""Whether what serving needs is installed."""

from importlib.util import find_spec

from pytorch_dl.errors import ConfigError


def require_extra() -> None:
    """Refuse with the command that installs it."""
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"serving needs {' and '.join(missing)}", fix="pip install 'pytorch-dl[serve]'")
