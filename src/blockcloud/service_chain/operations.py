"""The operations that a transaction can carry: one tagged struct each.

An operation names what to do, never who does it: that is the transaction's sender. The tag is part of the protocol and
of lanes' permissions, so tags are never reused. What an operation can be refused for without looking at the state
(`check_operation`) makes the whole transaction invalid; everything else is a rejection at execution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Final, TypeAlias, get_args

from msgspec import Meta

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, HANDOVER, SignedStatement, Statement
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import verify
from blockcloud.primitives.limits import (
    ACCOUNT_KEYS,
    DELEGATIONS,
    TRANSACTION_BYTES,
)
from blockcloud.primitives.names import parse_name
from blockcloud.service_chain.agreements.operations import AGREEMENT_CHECKS, AgreementOperation
from blockcloud.service_chain.contracts.limits import (
    ARGUMENT_BYTES,
    CODE_BYTES,
    METHOD_BYTES,
    TRANSACTION_FUEL,
)
from blockcloud.service_chain.contracts.limits import (
    SALT_BYTES as CONTRACT_SALT_BYTES,
)
from blockcloud.service_chain.fields import (
    API_URL_BYTES,
    NUMBER_MAX,
    Amount,
    ApiUrl,
    Digest,
    Key,
    Keys,
    LabelText,
    LinkAddress,
    NameText,
    Number,
    OptionalDigest,
    PolicyText,
    PositiveAmount,
    Salt,
    Signature,
)
from blockcloud.service_chain.market.operations import MARKET_CHECKS, MarketOperation
from blockcloud.service_chain.name_price import PriceRule
from blockcloud.service_chain.proof_of_service.operations import PROOF_OF_SERVICE_CHECKS, ProofOfServiceOperation
from blockcloud.transaction_chain.block import DIGEST_DOMAIN, SIGNATURE_DOMAIN, Header
from blockcloud.transaction_chain.cloudpos.stake import StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Report

_URL = re.compile(r"https?://[!-~]+", re.ASCII)
_LINK_ADDRESS = re.compile(r"[!-~]+:[0-9]{1,5}", re.ASCII)


class Transfer(Struct, frozen=True, tag=1):
    """Move `amount` micro-BLOC to the account `to`."""

    to: Key
    amount: PositiveAmount


class OpenLane(Struct, frozen=True, tag=2):
    """Let `key` act for the sender on a lane of its own: only operations with the tags `allowed` (ascending), spending
    at most `cap` micro-BLOC in all, fees included, up to and including height `expires_height`. Numbers of lanes grow:
    one that was used is never used again."""

    lane: Annotated[int, Meta(ge=1, le=NUMBER_MAX)]
    key: Key
    allowed: Annotated[tuple[Number, ...], Meta(min_length=1, max_length=64)]
    cap: Amount
    expires_height: Number


class CloseLane(Struct, frozen=True, tag=3):
    """End a lane and get its deposit back."""

    lane: Annotated[int, Meta(ge=1, le=NUMBER_MAX)]


class SetKeys(Struct, frozen=True, tag=5):
    """From now on `threshold` of `keys` (ascending, each once) sign for the sender, whose address stays as it is. They
    end its lanes unless `keep_lanes`. Each of `keys` signs the transaction too (`transaction.check_joining`)."""

    threshold: Annotated[int, Meta(ge=1, le=ACCOUNT_KEYS)]
    keys: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=ACCOUNT_KEYS)]
    keep_lanes: bool = False


class Preorder(Struct, frozen=True, tag=10):
    """Announce that a name will be registered without saying which (see `name_commitment`)."""

    commitment: Digest


class Register(Struct, frozen=True, tag=11):
    """Register the preordered `name`; `service_file_hash` may be empty. If its namespace asks for more than
    `price_limit` micro-BLOC, nothing happens."""

    name: NameText
    salt: Salt
    service_file_hash: OptionalDigest
    instance_keys: Keys
    price_limit: Amount = 0


class UpdateName(Struct, frozen=True, tag=12):
    """Bind another service file to the name, or none (empty)."""

    name: NameText
    service_file_hash: OptionalDigest


class AddInstance(Struct, frozen=True, tag=13):
    """Let the instance that holds `key` serve under the name."""

    name: NameText
    key: Key


class RemoveInstance(Struct, frozen=True, tag=14):
    """Take that right away."""

    name: NameText
    key: Key


class TransferName(Struct, frozen=True, tag=15):
    """Give the name to another owner. Its instance keys go: whoever holds them served the old owner."""

    name: NameText
    to: Key


class RenewName(Struct, frozen=True, tag=16):
    """Start the name's lifetime anew from this height, for at most `price_limit` micro-BLOC."""

    name: NameText
    price_limit: Amount = 0


class RevokeName(Struct, frozen=True, tag=17):
    """Give the name up; its keys count no more from this commit on."""

    name: NameText


class RevealNamespace(Struct, frozen=True, tag=18):
    """Open the preordered namespace `label`: names directly below it cost what `rule` says, live for `lifetime` commits
    and may be renewed for `grace` more."""

    label: LabelText
    salt: Salt
    rule: PriceRule
    lifetime: Annotated[int, Meta(ge=1, le=NUMBER_MAX)]
    grace: Number


class ReadyNamespace(Struct, frozen=True, tag=19):
    """From now on everybody registers names below the namespace; its owner has no more rights than others."""

    label: LabelText


class Delegation(Struct, frozen=True):
    """A name directly below another, for `owner`."""

    label: LabelText
    owner: Key
    service_file_hash: OptionalDigest
    instance_keys: Keys


class Delegate(Struct, frozen=True, tag=20):
    """Register all of these names directly below `parent`, a name of the sender's or its namespace that is not yet
    ready, without preorder. All or none."""

    parent: NameText
    entries: Annotated[tuple[Delegation, ...], Meta(min_length=1, max_length=DELEGATIONS)]


class SetPolicy(Struct, frozen=True, tag=31):
    """Bind a policy (Cedar) to the name: from now on nobody connects whom it does not permit. Empty: none."""

    name: NameText
    text: PolicyText


class GrantRole(Struct, frozen=True, tag=32):
    """Put the account `member` into the role of this name."""

    role: NameText
    member: Key


class RevokeRole(Struct, frozen=True, tag=33):
    """Take the account out of the role."""

    role: NameText
    member: Key


class RevokeGrant(Struct, frozen=True, tag=34):
    """Void the grant with this revocation id, which expires by itself at `expires_s` (Unix time); with an empty id,
    all grants for the name that were issued up to now."""

    name: NameText
    revocation_id: OptionalDigest
    expires_s: Number


class AnnounceEndpoint(Struct, frozen=True, tag=30):
    """A candidate says where its client API is, and its links to other validators (empty: as before)."""

    api_url: Annotated[str, Meta(min_length=1, max_length=API_URL_BYTES)]
    link_address: LinkAddress = ""


class Bond(Struct, frozen=True, tag=40):
    """Put `amount` micro-BLOC behind the sender as a candidate for the committee; the sender's key is its node key. The
    first bond needs both addresses, later ones may leave them empty. `onion_tip`: what the sender reveals for the
    beacon from two eras later on; empty: as before, at first none."""

    amount: PositiveAmount
    link_address: LinkAddress
    api_url: ApiUrl
    onion_tip: OptionalDigest


class Unbond(Struct, frozen=True, tag=41):
    """Take `amount` out of the bond. It can be withdrawn when its eras and its time have passed, and slashed until
    then."""

    amount: PositiveAmount


class Withdraw(Struct, frozen=True, tag=42):
    """Move all unbonding amounts that have waited out their eras and their time to the account."""


class Ready(Struct, frozen=True, tag=43):
    """Be a candidate for the committee of `era`, the next one, in which `consensus_key` will sign. `protocol_version`
    is the highest that this node can run."""

    era: Number
    consensus_key: Key
    protocol_version: Annotated[int, Meta(ge=1, le=NUMBER_MAX)] = 1


class Reveal(Struct, frozen=True, tag=44):
    """Reveal this era's layer of the sender's onion."""

    value: Digest


class Unjail(Struct, frozen=True, tag=45):
    """Ask back in after having been jailed in an earlier era."""


class StakeResources(Struct, frozen=True, tag=46):
    """Put up resources, or other ones than before; nothing to take them back. `address` is the "host:port" where the
    sender is examined; empty: as before."""

    claim: StakeClaim
    address: LinkAddress = ""


class ReportChallenges(Struct, frozen=True, tag=47):
    """What a drawn challenger saw in a round of tests."""

    report: Report


class SignedHeader(Struct, frozen=True):
    """The header of a block as it travelled, and the consensus key and signature of its author."""

    header: Annotated[bytes, Meta(max_length=TRANSACTION_BYTES)]
    signer: Key
    signature: Signature


class ReportEquivocation(Struct, frozen=True, tag=50):
    """Prove that a member signed two blocks of one level."""

    first: SignedHeader
    second: SignedHeader


class ReportConflict(Struct, frozen=True, tag=51):
    """Prove that a member signed two different checkpoint statements about one height, or two different hand-over
    statements in one era."""

    first: SignedStatement
    second: SignedStatement


class Deploy(Struct, frozen=True, tag=60):
    """Make a contract of `code`, a WebAssembly module, and run its `init` with `arguments`, `value` micro-BLOC and at
    most `fuel_limit`. Deposits for what is stored come out of the sender's account, up to `deposit_limit`. With another
    `salt` the same code is another contract."""

    code: Annotated[bytes, Meta(min_length=8, max_length=CODE_BYTES)]
    salt: Annotated[bytes, Meta(max_length=CONTRACT_SALT_BYTES)]
    arguments: Annotated[bytes, Meta(max_length=ARGUMENT_BYTES)]
    value: Amount
    deposit_limit: Amount
    fuel_limit: Annotated[int, Meta(ge=1, le=TRANSACTION_FUEL)]


class CallContract(Struct, frozen=True, tag=61):
    """Call a method of a contract; the rest as in `Deploy`."""

    contract: Key
    method: Annotated[str, Meta(min_length=1, max_length=METHOD_BYTES)]
    arguments: Annotated[bytes, Meta(max_length=ARGUMENT_BYTES)]
    value: Amount
    deposit_limit: Amount
    fuel_limit: Annotated[int, Meta(ge=1, le=TRANSACTION_FUEL)]


Operation: TypeAlias = (
    Transfer
    | OpenLane
    | CloseLane
    | SetKeys
    | Preorder
    | Register
    | UpdateName
    | AddInstance
    | RemoveInstance
    | TransferName
    | RenewName
    | RevokeName
    | RevealNamespace
    | ReadyNamespace
    | Delegate
    | AnnounceEndpoint
    | Bond
    | Unbond
    | Withdraw
    | Ready
    | Reveal
    | Unjail
    | StakeResources
    | ReportChallenges
    | ReportEquivocation
    | ReportConflict
    | Deploy
    | CallContract
    | SetPolicy
    | GrantRole
    | RevokeRole
    | RevokeGrant
    | AgreementOperation
    | MarketOperation
    | ProofOfServiceOperation
)

OPERATIONS: Final[tuple[type[Operation], ...]] = get_args(Operation)
# Tag of each operation; lanes and keys are managed by the owner only, so a lane cannot be allowed to open wider ones.
TAGS: Final[Mapping[type, int]] = {operation: int(str(operation.__struct_config__.tag)) for operation in OPERATIONS}
DELEGABLE_TAGS: Final = tuple(sorted(tag for kind, tag in TAGS.items() if kind not in (OpenLane, CloseLane, SetKeys)))


def name_commitment(name: str, salt: bytes, sender: bytes) -> bytes:
    """What `Preorder` publishes: it binds name and sender, and hides the name behind `salt` (32 random bytes)."""
    return tagged_hash("preorder/v1", codec.encode((name, salt, sender)))


def namespace_commitment(label: str, salt: bytes, sender: bytes) -> bytes:
    """What `Preorder` publishes for a namespace. No preorder of a name opens to one, nor the other way round."""
    return tagged_hash("preorder-namespace/v1", codec.encode((label, salt, sender)))


def _check_name(operation: Any) -> None:
    parse_name(operation.name)


def _check_register(operation: Register) -> None:
    parse_name(operation.name)
    _check_binding(operation.name, operation.service_file_hash, operation.instance_keys)


def _check_binding(name: str, service_file_hash: bytes, instance_keys: tuple[bytes, ...]) -> None:
    _check_file_hash(service_file_hash)
    if len(dict.fromkeys(instance_keys)) != len(instance_keys):
        raise Malformed("an instance key is named twice", name=name)


def _check_namespace(operation: RevealNamespace | ReadyNamespace) -> None:
    _check_label(operation.label)


def _check_delegate(operation: Delegate) -> None:
    for entry in operation.entries:
        _check_label(entry.label)
        name = parse_name(f"{entry.label}.{operation.parent}")
        _check_binding(name, entry.service_file_hash, entry.instance_keys)
    labels = [entry.label for entry in operation.entries]
    if len(dict.fromkeys(labels)) != len(labels):
        raise Malformed("a batch names a label twice", parent=operation.parent)


def _check_label(label: str) -> None:
    if "." in parse_name(label):
        raise Malformed("a label has no dots", label=label)


def _check_update(operation: UpdateName) -> None:
    parse_name(operation.name)
    _check_file_hash(operation.service_file_hash)


def _check_file_hash(digest: bytes) -> None:
    if len(digest) not in (0, 32):
        raise Malformed("a service file hash has 32 bytes, or none", bytes=len(digest))


def _check_open_lane(operation: OpenLane) -> None:
    if list(operation.allowed) != sorted(dict.fromkeys(operation.allowed)):
        raise Malformed("the allowed tags of a lane are ascending, each once")
    stray = [tag for tag in operation.allowed if tag not in DELEGABLE_TAGS]
    if stray:
        raise Malformed("a lane cannot be allowed this operation", tag=stray[0])


def _check_set_keys(operation: SetKeys) -> None:
    if any(first >= second for first, second in pairwise(operation.keys)):
        raise Malformed("the keys of an account are ascending, each once")
    if operation.threshold > len(operation.keys):
        raise Malformed("more keys must sign than there are", threshold=operation.threshold, keys=len(operation.keys))


def _check_endpoint(operation: AnnounceEndpoint) -> None:
    _check_addresses(operation.api_url, operation.link_address)


def _check_bond(operation: Bond) -> None:
    _check_addresses(operation.api_url, operation.link_address)
    if len(operation.onion_tip) not in (0, 32):
        raise Malformed("an onion's tip has 32 bytes, or none", bytes=len(operation.onion_tip))


def _check_addresses(api_url: str, link_address: str) -> None:
    if api_url and not _URL.fullmatch(api_url):
        raise Malformed("an API endpoint is an http or https URL", api_url=api_url[:80])
    if link_address and not _LINK_ADDRESS.fullmatch(link_address):
        raise Malformed('a link address is "host:port"', link_address=link_address[:80])


def _check_stake(operation: StakeResources) -> None:
    _check_addresses("", operation.address)


def _check_report(operation: ReportChallenges) -> None:
    if min(operation.report.era, operation.report.round_number) < 0:
        raise Malformed("eras and rounds count from 0", era=operation.report.era)


def _check_role(operation: GrantRole | RevokeRole) -> None:
    parse_name(operation.role)


def _check_revoke_grant(operation: RevokeGrant) -> None:
    parse_name(operation.name)
    if len(operation.revocation_id) not in (0, 32):
        raise Malformed("a revocation id has 32 bytes, or none", bytes=len(operation.revocation_id))


def header_of(signed: SignedHeader) -> Header:
    """The header in a piece of evidence. Raises Malformed, NonCanonical or Oversized."""
    return codec.decode(signed.header, Header, limit=TRANSACTION_BYTES)


def _check_equivocation(operation: ReportEquivocation) -> None:
    """The two headers are of one signer, chain, era, author and level, differ, and are really signed."""
    first, second = operation.first, operation.second
    places = [
        (signed.signer, header.chain_id, header.era, header.author, header.level)
        for signed in (first, second)
        for header in (header_of(signed),)
    ]
    if places[0] != places[1] or first.header == second.header or min(places[0][2:]) < 0:
        raise Malformed("not two different blocks of one author, era and level")
    for signed in (first, second):
        verify(signed.signer, SIGNATURE_DOMAIN, tagged_hash(DIGEST_DOMAIN, signed.header), signed.signature)


def statement_place(statement: Statement) -> tuple[bytes, str, int, int]:
    """(chain, kind, era, height): what a member says only one thing about. An era has one hand-over, whatever height a
    liar gives it, so the height of one is 0 here."""
    height = 0 if statement.kind == HANDOVER else statement.height
    return statement.chain_id, statement.kind, statement.era, height


def _check_conflict(operation: ReportConflict) -> None:
    """The two statements are of one signer and place, differ, and are really signed."""
    pair = (operation.first, operation.second)
    places = [(signed.signer, statement_place(signed.statement)) for signed in pair]
    if places[0] != places[1] or pair[0].statement == pair[1].statement:
        raise Malformed("not two different statements of one signer, kind, era and height")
    # Other kinds may be said more than once.
    if pair[0].statement.kind not in (CHECKPOINT, HANDOVER) or pair[0].statement.era < 0:
        raise Malformed("statements of this kind may differ", kind=pair[0].statement.kind[:32])
    for signed in pair:
        signed.verify()


_CHECKS: Final[Mapping[type, Callable[[Any], None]]] = {
    OpenLane: _check_open_lane,
    SetKeys: _check_set_keys,
    Register: _check_register,
    UpdateName: _check_update,
    AddInstance: _check_name,
    RemoveInstance: _check_name,
    TransferName: _check_name,
    RenewName: _check_name,
    RevokeName: _check_name,
    RevealNamespace: _check_namespace,
    ReadyNamespace: _check_namespace,
    Delegate: _check_delegate,
    AnnounceEndpoint: _check_endpoint,
    Bond: _check_bond,
    StakeResources: _check_stake,
    ReportChallenges: _check_report,
    ReportEquivocation: _check_equivocation,
    ReportConflict: _check_conflict,
    SetPolicy: _check_name,
    GrantRole: _check_role,
    RevokeRole: _check_role,
    RevokeGrant: _check_revoke_grant,
    **AGREEMENT_CHECKS,
    **MARKET_CHECKS,
    **PROOF_OF_SERVICE_CHECKS,
}


def check_operation(operation: Operation) -> None:
    """Raise Malformed, InvalidName or, for evidence, BadSignature if `operation` makes no sense in any state."""
    check = _CHECKS.get(type(operation))
    if check is not None:
        check(operation)
