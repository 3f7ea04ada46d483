"""Train encoder-decoder Transformers from scratch on your own text pairs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_dl.comparing.comparison import compare
    from pytorch_dl.config import Config, get_config, load_config
    from pytorch_dl.translator import Translator, load
    from pytorch_dl.weights_from import take_weights

__version__ = "0.1.0"
__all__ = [
    "Config",
    "Translator",
    "__version__",
    "compare",
    "get_config",
    "load",
    "load_config",
    "take_weights",
]
_HOMES = {
    "Config": "pytorch_dl.config",
    "compare": "pytorch_dl.comparing.comparison",
    "get_config": "pytorch_dl.config",
    "load_config": "pytorch_dl.config",
    "Translator": "pytorch_dl.translator",
    "load": "pytorch_dl.translator",
    "take_weights": "pytorch_dl.weights_from",
}


def __getattr__(name: str) -> object:
    """Import the public names when they are asked for: `import pytorch_dl` alone does not load torch."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
