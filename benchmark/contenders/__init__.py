"""What is compared: models and their training loops, and the FLOPs of their steps."""
