"""What ladder.py climbs and overlay.py compares: models and loops with some optimisations switched on."""
