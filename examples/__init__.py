"""Programs that show the Python API."""
