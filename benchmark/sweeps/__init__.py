"""What growth.py goes through: sizes of models and batches, and the figure of them."""
