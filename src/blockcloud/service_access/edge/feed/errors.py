"""Why a feed refuses what it is sent: one class for each reason."""

from __future__ import annotations

from blockcloud.primitives.errors import BlockCloudError, Malformed, PeerFault


class BadReading(Malformed):
    """A reading has a field that is missing, of the wrong type or out of range."""

    code = "bad_reading"


class BadPack(Malformed):
    """The bytes are not a SenML pack."""

    code = "bad_senml"


class NotUnderstood(BadPack):
    """A SenML record has a field that must be understood, and is not."""

    code = "senml_not_understood"
    hint = "Fields that end in an underscore change what a record means; leave the field out."


class UnsupportedVersion(BadPack):
    """The SenML version is newer than the one spoken here."""

    code = "senml_version"


class UnknownFormat(PeerFault):
    """The content format is none that a feed takes."""

    code = "unknown_format"
    hint = "Send application/senml+json, application/senml+cbor or application/json."


class FromTheFuture(PeerFault):
    """A reading's time lies ahead of the clock here."""

    code = "from_the_future"
    hint = "Set the device's clock, or leave the time out: the time of arrival counts then."


class TooManySeries(PeerFault):
    """The feed has as many series as it keeps."""

    code = "too_many_series"


class TooManySources(PeerFault):
    """The feed knows as many sources as it keeps."""

    code = "too_many_sources"


class BadToken(PeerFault):
    """The feed asks for a token, and it is missing or another one."""

    code = "bad_token"


class BadRequest(Malformed):
    """A reader's request, or a feed's answer to it, is not in the form that readers and feeds speak."""

    code = "bad_request"


class TooManyReaders(PeerFault):
    """The feed serves as many readers as it can."""

    code = "too_many_readers"
    hint = "Try again later."


class OutboxFull(BlockCloudError):
    """The outbox is full of aggregates that somebody has still to fetch."""

    code = "outbox_full"
    hint = "Bring the consumer back, give the feed more room, or let it forget the consumer."
