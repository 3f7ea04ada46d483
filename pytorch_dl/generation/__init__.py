"""Outputs from a trained model: token ids of sources in, scored hypotheses out."""

from pytorch_dl.generation.generate import SearchSettings, generate
from pytorch_dl.generation.search import Hypothesis, StepModel, beam_search, greedy

__all__ = ["Hypothesis", "SearchSettings", "StepModel", "beam_search", "generate", "greedy"]
