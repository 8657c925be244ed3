"""Valid bytes of everything that comes over a wire, and the decoder that takes them: for the tests that damage them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, Certificate, SignedStatement, Statement
from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.hashes import sha256, tagged_hash
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.merkle import merkle_root
from blockcloud.routing import messages as routing
from blockcloud.routing.address_record import MEDIA_TYPE, AddressRecord, Endpoint, sign_record, verify_record
from blockcloud.routing.cose import open_sign1, sign1
from blockcloud.routing.service_file import build_service_file, parse_service_file
from blockcloud.routing.store import Entry
from blockcloud.service_chain.handover import HANDOVER_BYTES, Handover
from blockcloud.service_chain.inclusion import ProvenTransaction, prove_transaction
from blockcloud.service_chain.operations import AddInstance, Preorder, Register, Transfer
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.transaction import (
    TransactionBody,
    WireTransaction,
    parse_transaction,
    sign_transaction,
    verify_signatures,
)
from blockcloud.transaction_chain import messages
from blockcloud.transaction_chain.block import (
    DIGEST_DOMAIN,
    SIGNATURE_DOMAIN,
    BlockReference,
    Header,
    WireBlock,
    era_of,
    genesis_reference,
    parse_block,
    sign_block,
    verify_block_signature,
)
from blockcloud.transaction_chain.commit import CommitRecord
from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.era import EraPlan, Seat, handover_statement

CHAIN = bytes(range(32))
KEYS = [SigningKey(bytes([number]) * 32) for number in range(1, 5)]
COMMITTEE = Committee(Member(key.public, 1_000) for key in KEYS)
NOW_S = 1_800_000_000
NAME = "thermo.acme"
LIMIT = 2**20

# Lists, numbers, texts and bytes, as a decoder without types gives them.
Tree = Any


@dataclass(frozen=True)
class Wire:
    """A way in. `decode` is a decoder with all the checks that stand behind it. `seal` makes of the inner value's tree
    what a liar would send: encoded again and signed with good keys; `trees` are valid inner values."""

    decode: Callable[[bytes], object]
    valid: list[bytes]
    trees: list[Tree]
    seal: Callable[[Tree], bytes]


def plain(value: object) -> Tree:
    """`value` without its types."""
    return msgspec.msgpack.decode(codec.encode(value))


def sealed_certificate(statement: Tree) -> Tree:
    """A certificate tree of whatever statement, signed by all."""
    message = codec.encode(statement)
    return [statement, sorted([key.public, key.sign("statement/v1", message)] for key in KEYS)]


def certify(statement: Statement) -> Certificate:
    return codec.decode(codec.encode(sealed_certificate(plain(statement))), Certificate, limit=LIMIT)


STATEMENT = Statement(CHECKPOINT, CHAIN, 0, 10, (sha256(b"c"), sha256(b"r")))
SIGNED = SignedStatement(STATEMENT, KEYS[0].public, KEYS[0].sign("statement/v1", codec.encode(STATEMENT)))
BODIES = [
    TransactionBody(CHAIN, KEYS[0].public, 0, 1, 100, 100, operations)
    for operations in (
        (Transfer(KEYS[1].public, 5),),
        (Preorder(bytes(32)), Register(NAME, bytes(32), bytes(32), (bytes(32),)), AddInstance(NAME, bytes(32))),
    )
]
TRANSACTIONS = [sign_transaction(body, *KEYS[:count]) for body in BODIES for count in (1, 3)]
HEADER = Header(
    CHAIN,
    0,
    0,
    1,
    tuple(genesis_reference(author, CHAIN) for author in range(4)),
    5,
    merkle_root(TRANSACTIONS),
    (SIGNED,),
    bytes(32),
)
BLOCK = sign_block(HEADER, tuple(TRANSACTIONS), KEYS[0])
COMMIT = CommitRecord(0, 10, 12, CHAIN, (BLOCK.reference,), (BLOCK.reference,), 1_000)
CERTIFICATE = certify(Statement(CHECKPOINT, CHAIN, 0, 10, (COMMIT.digest(), sha256(b"root"))))
PLAN = EraPlan(1, 11, bytes(32), 1, tuple(Seat(key.public, key.public, 9, 9, "h:1", "http://h") for key in KEYS))
HANDOVER = Handover(certify(handover_statement(CHAIN, 10, COMMIT.digest(), bytes(32), PLAN)), PLAN)
INCLUSION = prove_transaction(BLOCK, 1, [codec.encode(COMMIT)], CERTIFICATE)
RECORD = sign_record(
    AddressRecord(NAME, KEYS[0].public, 3, NOW_S, NOW_S + 60, bytes(32), (Endpoint("tls", "127.0.0.1", 7),)), KEYS[0]
)
SERVICE_FILE = build_service_file(NAME, "Thermometer", description="Measures")
MESSAGES: list[messages.Message] = [
    messages.BlockMessage(BLOCK.raw),
    messages.FetchBlocks((BLOCK.reference, BlockReference(2, 1, bytes(32)))),
    messages.FetchLevels(3, 9),
    messages.Blocks((BLOCK.raw, b"other")),
    messages.Statement(SIGNED),
    messages.Routing(b"data"),
    messages.Position(3, True),
    messages.Certified(CERTIFICATE),
    messages.FetchHandovers(2),
    messages.Handovers(2, (codec.encode(HANDOVER), b"other"), (messages.SnapshotOffer(3, bytes(32)),)),
    messages.FetchSnapshot(bytes(32), 7),
    messages.SnapshotPiece(bytes(32), 7, b"data"),
    messages.FetchCommits(0, 10, 11),
    messages.Commits(0, (codec.encode(COMMIT),), CERTIFICATE),
]
ROUTING: list[routing.RoutingMessage] = [
    routing.Summary(3, bytes(32)),
    routing.Ask(b""),
    routing.Page((Entry(bytes(32), b"", 0), Entry(bytes(32), bytes(32), 4)), True),
    routing.Have((Entry(bytes(32), b"", 0),)),
    routing.Fetch((bytes(32), sha256(b"x"))),
    routing.Delivery((SERVICE_FILE,), (RECORD,)),
]


def decode_message(data: bytes) -> object:
    message = messages.decode_message(data)
    assert messages.encode_message(message) == data
    if isinstance(message, messages.Statement):
        message.signed.verify()
    return message


def decode_block(data: bytes) -> object:
    with suppress(Malformed):
        era_of(data)
    block = parse_block(data, CHAIN, 0, COMMITTEE, CHAIN)
    verify_block_signature(block, COMMITTEE)
    return block


def seal_block(header: Tree) -> bytes:
    data = codec.encode(header)
    signature = KEYS[0].sign(SIGNATURE_DOMAIN, tagged_hash(DIGEST_DOMAIN, data))
    return codec.encode(WireBlock(data, BLOCK.payload, signature))


def decode_transaction(data: bytes) -> object:
    transaction = parse_transaction(data)
    verify_signatures(transaction)
    return transaction


def seal_transaction(body: Tree) -> bytes:
    data = codec.encode(body)
    return codec.encode(WireTransaction(data, ((KEYS[0].public, KEYS[0].sign("transaction/v1", data)),)))


def decode_routing(data: bytes) -> object:
    message = routing.decode_routing(data)
    assert routing.encode_routing(message) == data
    return message


def decode_signed(data: bytes) -> object:
    signed = codec.decode(data, SignedStatement, limit=LIMIT)
    signed.verify()
    return signed


def decode_certificate(data: bytes) -> object:
    certificate = codec.decode(data, Certificate, limit=LIMIT)
    certificate.verify(COMMITTEE.weights_by_key)
    return certificate


def decode_handover(data: bytes) -> object:
    return codec.decode(data, Handover, limit=HANDOVER_BYTES).verify(CHAIN, COMMITTEE.weights_by_key)


def seal_handover(tree: Tree) -> bytes:
    """The era and height as the plan would have them, and the plan's own digest, signed by all."""
    plan = tree[1] if isinstance(tree, list) and len(tree) == 2 else tree
    fields = plan if isinstance(plan, list) and len(plan) > 1 else [1, 11]
    era, height = ((field - 1) if isinstance(field, int) and field > 0 else 0 for field in fields[:2])
    digests = [bytes(32), bytes(32), tagged_hash("era-plan/v1", codec.encode(plan))]
    return codec.encode([sealed_certificate(["handover", CHAIN, era, height, digests]), plan])


def decode_proven_value(data: bytes) -> object:
    return codec.decode(data, ProvenValue, limit=LIMIT).verify(CHAIN, COMMITTEE.weights_by_key)


def seal_proven_value(commit: Tree) -> bytes:
    """The value with a commit that a quorum really signed, whatever it is; its height as it says."""
    data = codec.encode(commit)
    height = commit[1] if isinstance(commit, list) and len(commit) > 1 else 10
    digest = tagged_hash("commit/v1", data)
    return codec.encode(
        [b"key", b"value", bytes(40), sealed_certificate(["checkpoint", CHAIN, 0, height, [digest, digest]]), data]
    )


def decode_proven_transaction(data: bytes) -> object:
    identifier = parse_transaction(TRANSACTIONS[1]).id
    proven = codec.decode(data, ProvenTransaction, limit=LIMIT)
    return proven.verify(identifier, CHAIN, COMMITTEE.weights_by_key)


def decode_record(data: bytes) -> object:
    return verify_record(data, NOW_S)


WIRES: dict[str, Wire] = {
    "message": Wire(
        decode_message, [codec.encode(item) for item in MESSAGES], [plain(item) for item in MESSAGES], codec.encode
    ),
    "block": Wire(decode_block, [BLOCK.raw], [plain(HEADER)], seal_block),
    "transaction": Wire(decode_transaction, TRANSACTIONS, [plain(body) for body in BODIES], seal_transaction),
    "routing": Wire(
        decode_routing,
        [routing.encode_routing(item) for item in ROUTING],
        [[plain(item)] for item in ROUTING],
        codec.encode,
    ),
    "signed statement": Wire(decode_signed, [codec.encode(SIGNED)], [plain(SIGNED)], codec.encode),
    "certificate": Wire(
        decode_certificate,
        [codec.encode(CERTIFICATE)],
        [plain(STATEMENT)],
        lambda statement: codec.encode(sealed_certificate(statement)),
    ),
    "hand-over": Wire(decode_handover, [codec.encode(HANDOVER)], [plain(PLAN)], seal_handover),
    "proven value": Wire(
        decode_proven_value,
        [codec.encode(ProvenValue(b"key", b"value", bytes(40), CERTIFICATE, codec.encode(COMMIT)))],
        [plain(COMMIT)],
        seal_proven_value,
    ),
    "proven transaction": Wire(decode_proven_transaction, [codec.encode(INCLUSION)], [plain(INCLUSION)], codec.encode),
    "address record": Wire(
        decode_record,
        [RECORD],
        [dict(open_sign1(RECORD, MEDIA_TYPE, limit=LIMIT).claims)],
        lambda claims: sign1(claims, MEDIA_TYPE, KEYS[0]),
    ),
    "service file": Wire(
        parse_service_file,
        [SERVICE_FILE],
        [json.loads(SERVICE_FILE)],
        lambda document: json.dumps(document, sort_keys=True, separators=(",", ":"), default=bytes.hex).encode(),
    ),
}
