"""Why routing refuses something: one class for each reason. DESIGN section 11."""

from __future__ import annotations

from blockcloud.primitives.errors import BlockCloudError, PeerFault


class InvalidServiceFile(PeerFault):
    """The file is not a W3C Thing Description with our terms in their place."""

    code = "invalid_service_file"


class AddressInServiceFile(InvalidServiceFile):
    """A service file names a host by its address; addresses change and belong into address records."""

    code = "address_in_service_file"


class InvalidPrice(PeerFault):
    """The text or the term of a service file is not a price: an amount of BLOC and a unit."""

    code = "invalid_price"


class UnknownCriticalTerm(PeerFault):
    """The service file says that a term must be understood which this version does not know."""

    code = "unknown_critical_term"
    hint = "The service needs a newer version of BlockCloud."


class HashMismatch(PeerFault):
    """The bytes are not those of the hash they were asked by."""

    code = "hash_mismatch"


class NotAnnounced(PeerFault):
    """The ledger announces neither this file's hash nor this key for the name."""

    code = "not_announced"
    hint = "Register or update the name first; files and records are kept only for what the ledger lists."


class InvalidAddressRecord(PeerFault):
    """A claim of the address record is missing, unknown or out of range."""

    code = "invalid_address_record"


class LeaseTooLong(PeerFault):
    """The lease of an address record is longer than allowed."""

    code = "lease_too_long"


class LeaseExpired(PeerFault):
    """The lease of the address record has ended."""

    code = "lease_expired"
    hint = "The instance should refresh its record; its clock may be wrong."


class IssuedInFuture(PeerFault):
    """The address record was issued later than now, by more than clocks may differ."""

    code = "issued_in_future"
    hint = "The clock of the instance or of this node is wrong."


class StaleSequence(PeerFault):
    """A record with a higher sequence number of the same instance is known."""

    code = "stale_sequence"


class Unsolicited(PeerFault):
    """The peer sent what it was not asked for."""

    code = "unsolicited"


class Flooding(PeerFault):
    """The peer sends more than a peer may."""

    code = "flooding"


class RoutingFull(BlockCloudError):
    """This node's routing table has reached its limit."""

    code = "routing_full"
