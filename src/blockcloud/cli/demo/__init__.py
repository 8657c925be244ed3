"""The demo: the whole promise in under a minute, on real processes, with a verdict for each claim."""
