"""Those that are compared at decoding, each in a process of its own."""
