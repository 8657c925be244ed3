"""Why a proxy refuses a program: one class for each reason."""

from __future__ import annotations

from blockcloud.primitives.errors import BlockCloudError, PeerFault


class NotAServiceName(PeerFault):
    """The proxy leads to services by name, and this is none of them."""

    code = "not_a_service_name"
    hint = "Names with a suffix of --suffix are services; without that option, every name that the ledger knows."


class AddressNotName(PeerFault):
    """An IP address is no service name."""

    code = "address_not_name"
    hint = "Let the proxy resolve names: socks5h:// instead of socks5://, curl --socks5-hostname."


class PoolExhausted(BlockCloudError):
    """Every loopback address is in use by another service."""

    code = "pool_exhausted"
    hint = "Wait until connections to other services have ended."


class SocksRefused(PeerFault):
    """The program's SOCKS conversation ends. `answer` is to be sent before the connection is closed."""

    code = "socks_refused"

    def __init__(self, message: str = "", *, answer: bytes = b"", **values: object) -> None:
        super().__init__(message, **values)
        self.answer = answer


class NotSocks(SocksRefused):
    """Whoever connected does not speak SOCKS version 5."""

    code = "not_socks"


class NoCommonMethod(SocksRefused):
    """The program offers no way to authenticate that this proxy takes."""

    code = "socks_method"
    hint = "The proxy was started with --token: give the token as the password, with any user name."


class WrongToken(PeerFault):
    """The token is not this proxy's."""

    code = "wrong_token"
    hint = "The token is in the file that the proxy was started with (--token); it is the password, with any user name."


class WrongSocksToken(SocksRefused):
    """The password is not this proxy's token."""

    code = WrongToken.code
    hint = WrongToken.hint


class UnsupportedCommand(SocksRefused):
    """Only CONNECT is served."""

    code = "socks_command"


class SocksAddressNotName(SocksRefused):
    """The program asks for an IP address, which is no service name."""

    code = AddressNotName.code
    hint = AddressNotName.hint


class MalformedSocks(SocksRefused):
    """The request breaks RFC 1928."""

    code = "socks_malformed"


class HttpRefused(PeerFault):
    """The HTTP request is refused with `status`."""

    code = "bad_request"
    status = 400


class NotAProxyRequest(HttpRefused):
    """The request is for a server, and this is a proxy."""

    code = "not_a_proxy_request"
    hint = "Name this address as the program's HTTP proxy: curl -x, http_proxy, https_proxy."


class AmbiguousRequest(HttpRefused):
    """The request can be read in two ways."""

    code = "ambiguous_request"


class HostMismatch(HttpRefused):
    """The Host header names another host than the one that the request is for."""

    code = "host_mismatch"


class MisdirectedRequest(HttpRefused):
    """The request reached a service by an address, and its Host header names another one."""

    code = "misdirected_request"
    hint = "A page of another site may be trying to reach services on this machine (DNS rebinding)."
    status = 421


class ProxyAuthenticationRequired(HttpRefused):
    """The request lacks this proxy's token, or has a wrong one."""

    code = WrongToken.code
    hint = WrongToken.hint
    status = 407


class OversizedHead(HttpRefused):
    """The head of the request is larger than its limit."""

    code = "oversized_head"
    status = 431


class Truncated(BlockCloudError):
    """The service broke off before its answer was complete."""

    code = "truncated"
