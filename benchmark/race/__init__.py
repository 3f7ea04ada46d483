"""The race of benchmark.py: contenders in processes of their own, measured by turns, and what that says."""
