"""What is proven about a name, for whoever checks what is served under it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trust:
    """Keys that may sign responses of the name, and SHA-256 by path of the content that its service file fixes."""

    keys: tuple[bytes, ...]
    digests: Mapping[str, bytes]
