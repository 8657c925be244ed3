"""Links: what carries the frames of one session between two endpoints, one module for each kind."""
