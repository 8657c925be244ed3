"""Values that prove themselves: accepted with the real certificate and proof, refused with anything forged."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, Certificate, Statement
from blockcloud.primitives.errors import BadCertificate, BadProof, BadSignature, PeerFault, WrongChain
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.operations import Transfer
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.state_keys import account_key
from tests.service_chain.ledger_in_memory import USERS, VALIDATORS, Ledger

KEY, ABSENT = account_key(USERS[1].public), account_key(bytes(32))


def certify(statement: Statement, signers: list[SigningKey]) -> Certificate:
    ordered = sorted(signers, key=lambda signer: signer.public)
    return Certificate(
        statement, tuple((signer.public, signer.sign(DOMAIN, codec.encode(statement))) for signer in ordered)
    )


def made() -> tuple[Ledger, Statement, bytes]:
    """A ledger at a checkpoint, the statement about it, and the commit's bytes."""
    ledger = Ledger()
    ledger.run(USERS[1], Transfer(USERS[2].public, 1))
    ledger.advance(3)
    assert ledger.chain.checkpoint is not None
    height, digest, root = ledger.chain.checkpoint
    assert height == 4
    return ledger, Statement(CHECKPOINT, ledger.chain.chain_id, 0, height, (digest, root)), codec.encode(ledger.record)


LEDGER, STATEMENT, COMMIT = made()
WEIGHTS = LEDGER.genesis.committee().weights_by_key


def proven(key: bytes, statement: Statement = STATEMENT, signers: list[SigningKey] = VALIDATORS) -> ProvenValue:
    value = LEDGER.chain.get(key) or b""
    return ProvenValue(key, value, LEDGER.chain.prove(key, 4), certify(statement, signers), COMMIT)


def test_a_value_and_an_absence_prove_themselves() -> None:
    value = LEDGER.chain.get(KEY)
    assert value is not None
    assert proven(KEY).verify(LEDGER.chain.chain_id, WEIGHTS) == (value, 4, 400)
    assert proven(ABSENT).verify(LEDGER.chain.chain_id, WEIGHTS) == (None, 4, 400)


STRANGERS = [SigningKey(bytes([5, number]) + bytes(30)) for number in range(2)]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        pytest.param(msgspec.structs.replace(proven(KEY), value=b"more"), BadProof, id="another value"),
        pytest.param(msgspec.structs.replace(proven(KEY), value=b""), BadProof, id="absent"),
        pytest.param(msgspec.structs.replace(proven(ABSENT), value=b"x"), BadProof, id="present"),
        pytest.param(msgspec.structs.replace(proven(KEY), key=ABSENT), BadProof, id="another key"),
        pytest.param(msgspec.structs.replace(proven(KEY), proof=b""), BadProof, id="no proof"),
        pytest.param(proven(KEY, signers=VALIDATORS[:1]), BadCertificate, id="too few signers"),
        pytest.param(proven(KEY, signers=STRANGERS), BadCertificate, id="strangers"),
        pytest.param(proven(KEY, msgspec.structs.replace(STATEMENT, kind="x")), BadCertificate, id="another kind"),
        pytest.param(proven(KEY, msgspec.structs.replace(STATEMENT, chain_id=b"")), WrongChain, id="another chain"),
        pytest.param(proven(KEY, msgspec.structs.replace(STATEMENT, height=5)), BadProof, id="another height"),
        pytest.param(
            msgspec.structs.replace(
                proven(KEY), commit=codec.encode(msgspec.structs.replace(LEDGER.record, time_ms=9))
            ),
            BadProof,
            id="another time",
        ),
        pytest.param(msgspec.structs.replace(proven(KEY), commit=b"junk"), PeerFault, id="no commit"),
    ],
)
def test_a_forged_answer_is_refused(answer: ProvenValue, fault: type[PeerFault]) -> None:
    with pytest.raises(fault):
        answer.verify(LEDGER.chain.chain_id, WEIGHTS)


def test_a_certificate_with_a_changed_statement_is_refused() -> None:
    certificate: Any = msgspec.structs.replace(
        proven(KEY).certificate, statement=msgspec.structs.replace(STATEMENT, era=1)
    )
    with pytest.raises(BadSignature):
        msgspec.structs.replace(proven(KEY), certificate=certificate).verify(LEDGER.chain.chain_id, WEIGHTS)
