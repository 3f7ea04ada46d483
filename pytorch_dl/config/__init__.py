"""Settings: sections with defaults, templates, files and overrides. Imports no torch."""

from pytorch_dl.config.load import load_config, to_described_yaml, to_json, to_yaml
from pytorch_dl.config.model_config import Config, get_config

__all__ = ["Config", "get_config", "load_config", "to_described_yaml", "to_json", "to_yaml"]
