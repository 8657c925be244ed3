"""Speeds, each measured beside a yardstick of the same machine and the same minute (`blockcloud bench`)."""
