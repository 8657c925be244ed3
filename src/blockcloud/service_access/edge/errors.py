"""Why an HTTP message is not taken, and which check a response failed: one class for each reason."""

from __future__ import annotations

from blockcloud.primitives.errors import BlockCloudError, PeerFault


class BadMessage(PeerFault):
    """The bytes are no HTTP/1 message that is taken here."""

    code = "bad_http_message"


class ConnectionBroken(BlockCloudError):
    """The connection ended in the middle of a message."""

    code = "connection_broken"


class ServerFailed(BlockCloudError):
    """The HTTP server behind broke off, or answered something that is not HTTP."""

    code = "server_failed"


class ResponseRefused(PeerFault):
    """The response is not proven to be the provider's answer to this request."""

    code = "response_refused"
    hint = "Whoever served it may be tampering. Ask the provider itself: --fallback, or without --edge."


class Unsigned(ResponseRefused):
    """The response has no signature of the provider, and the service file lists no digest for it."""

    code = "unsigned"
    hint = "Does the provider publish with --http? What is too large or personal is never signed: ask without --edge."


class SignatureMalformed(ResponseRefused):
    """The signature fields do not have the form of RFC 9421."""

    code = "signature_malformed"


class ComponentsMissing(ResponseRefused):
    """The signature covers less than it must, or something that the response does not have."""

    code = "components_missing"


class DuplicateField(ResponseRefused):
    """A field that counts comes twice: readers might take different ones."""

    code = "duplicate_field"


class AlgorithmRefused(ResponseRefused):
    """The signature or the digest is of another algorithm than Ed25519 and SHA-256."""

    code = "algorithm_refused"


class UnknownResponseKey(ResponseRefused):
    """The signature is by a key that the ledger does not list for the name."""

    code = "unknown_response_key"


class SignatureExpired(ResponseRefused):
    """The signature has expired: an old answer is served again."""

    code = "signature_expired"


class SignatureNotYetValid(ResponseRefused):
    """The signature was made in the future: somebody's clock is wrong."""

    code = "signature_not_yet_valid"


class WrongName(ResponseRefused):
    """The response is another name's."""

    code = "wrong_name"


class WrongMethod(ResponseRefused):
    """Only answers to GET are signed."""

    code = "wrong_method"


class DigestMismatch(ResponseRefused):
    """The content is not what was signed: altered or cut short."""

    code = "digest_mismatch"


class SignatureMismatch(ResponseRefused):
    """The signature is not for this path, query, status and these fields."""

    code = "signature_mismatch"
