"""Measures and rates of a machine, and what all command lines share; knows nothing of what is measured."""
