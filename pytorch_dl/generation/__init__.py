"""Outputs from a trained model: token ids of sources in, scored hypotheses out."""

from pytorch_dl.generation.generate import generate
from pytorch_dl.generation.hypothesis import Hypothesis, Request
from pytorch_dl.generation.search import StepModel
from pytorch_dl.generation.settings import SearchSettings

__all__ = ["Hypothesis", "Request", "SearchSettings", "StepModel", "generate"]
