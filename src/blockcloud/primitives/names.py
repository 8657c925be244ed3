"""Service names: DNS-shaped, LDH labels in lower case, most significant label last (`thermo.kitchen.acme`).

International names are written as A-labels (RFC 5890), so that two names that look alike are at least two byte strings.
"""

from __future__ import annotations

import re

from blockcloud.primitives.errors import InvalidName
from blockcloud.primitives.limits import LABEL_BYTES, NAME_BYTES

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)
URI_SCHEME = "bloc"


def parse_name(text: str) -> str:
    """`text` if it is a valid name. Raises InvalidName with the reason."""
    if not text or len(text) > NAME_BYTES:
        raise InvalidName(f"a name has 1 to {NAME_BYTES} characters", characters=len(text))
    for label in text.split("."):
        if len(label) > LABEL_BYTES:
            raise InvalidName(f"a label has at most {LABEL_BYTES} characters", label=label[:80])
        if not _LABEL.fullmatch(label):
            raise InvalidName("a label has a-z, 0-9 and inner hyphens only, and is not empty", label=label)
        if label[2:4] == "--" and not label.startswith("xn--"):
            raise InvalidName("hyphens in places 3 and 4 are for A-labels (xn--)", label=label)
    return text


def parent_of(name: str) -> str:
    """The name one level up, or '' for a top-level label: `kitchen.acme` for `thermo.kitchen.acme`."""
    return name.partition(".")[2]


def split_uri(uri: str) -> tuple[str, str]:
    """(name, path) of `bloc://name/path`. Raises InvalidName."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme != URI_SCHEME:
        raise InvalidName("a service URI starts with bloc://", uri=uri[:80])
    name, slash, path = rest.partition("/")
    return parse_name(name), slash + path
