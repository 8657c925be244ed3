"""The types of fields that operations share, with the bounds that decoding checks."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.primitives.limits import INSTANCE_KEYS, LABEL_BYTES, NAME_BYTES

# Heights, sequences and lane numbers: they fit a signed 64-bit integer of any language.
NUMBER_MAX: Final = 2**63 - 1
API_URL_BYTES: Final = 256
LINK_ADDRESS_BYTES: Final = 128
SALT_BYTES: Final = 32

Key: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Digest: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
# A digest, or empty for none.
OptionalDigest: TypeAlias = Annotated[bytes, Meta(max_length=32)]
Number: TypeAlias = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
Amount: TypeAlias = Annotated[int, Meta(ge=0, le=MAXIMUM_MICRO_BLOC)]
PositiveAmount: TypeAlias = Annotated[int, Meta(ge=1, le=MAXIMUM_MICRO_BLOC)]
Signature: TypeAlias = Annotated[bytes, Meta(min_length=64, max_length=64)]
NameText: TypeAlias = Annotated[str, Meta(min_length=1, max_length=NAME_BYTES)]
LabelText: TypeAlias = Annotated[str, Meta(min_length=1, max_length=LABEL_BYTES)]
PolicyText: TypeAlias = Annotated[str, Meta(max_length=16 * 1024)]
Salt: TypeAlias = Annotated[bytes, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
Keys: TypeAlias = Annotated[tuple[Key, ...], Meta(max_length=INSTANCE_KEYS)]

# Both may be empty where that means: as before.
ApiUrl: TypeAlias = Annotated[str, Meta(max_length=API_URL_BYTES)]
LinkAddress: TypeAlias = Annotated[str, Meta(max_length=LINK_ADDRESS_BYTES)]
