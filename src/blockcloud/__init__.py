"""BlockCloud: reach a service by its name, pay a fair price, and prove afterwards what was served."""

__version__ = "0.1.0"
