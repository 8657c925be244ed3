"""The light client that follows eras: whom it believes after a hand-over, for how long, and what it refuses by name."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import Certificate
from blockcloud.primitives.errors import (
    BadCertificate,
    BadSignature,
    BelowQuorum,
    BlockCloudError,
    DoubledSigner,
    Malformed,
    Oversized,
    PeerFault,
    WrongChain,
)
from blockcloud.primitives.hashes import ZERO_DIGEST
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.errors import (
    ConflictingCertificates,
    ConflictingHandovers,
    ProofFromFuture,
    SkippedEra,
    StaleProof,
    TrustExpired,
    UnknownEra,
)
from blockcloud.sdk.light_client import ERAS_KEPT, LightClient, TrustedState
from blockcloud.service_chain.handover import (
    HANDOVER_BYTES,
    Handover,
    PlanMismatch,
    WrongEra,
    WrongFirstHeight,
)
from blockcloud.service_chain.state_keys import account_key
from tests.sdk.sdk_world import BOND, OTHER, START_MS, VALIDATORS, Ledger, certify

KEY = account_key(OTHER.public)
ABSENT = account_key(bytes(32))
PERIOD_S = 1_000
ERA_MS = 100_000
NEW = [SigningKey(bytes([100 + number]) * 32) for number in range(12)]
# Eras 0 to 4; each has two commits, its own committee and its own weights.
COMMITTEES = [(NEW[:4], [BOND] * 4), (NEW[4:9], [1, 2, 3, 4, 5]), (NEW[2:6], [7, 7, 7, 1]), (NEW[6:], [9] * 6)]
ERAS = len(COMMITTEES)


def make_ledger() -> Ledger:
    """Era e has the heights 2e+1 and 2e+2, at the times START + e * 100 s + 10 s and + 20 s."""
    ledger = Ledger()
    for era in range(ERAS + 1):
        for number in (1, 2):
            ledger.commit(time_ms=START_MS + ERA_MS * era + 10_000 * number)
        if era < ERAS:
            ledger.hand_over(*COMMITTEES[era])
    return ledger


LEDGER = make_ledger()
HANDOVERS = [codec.encode(made) for made in LEDGER.handovers]


def ledger_in_era_0() -> Ledger:
    ledger = Ledger()
    for number in (1, 2):
        ledger.commit(time_ms=START_MS + 10_000 * number)
    return ledger


FRESH = ledger_in_era_0()
PLAN = FRESH.plan(*COMMITTEES[0])


def client(**how: Any) -> LightClient:
    return LightClient(LEDGER.genesis, trusting_period_s=PERIOD_S, **how)


def time_of(height: int) -> int:
    return LEDGER.commits[height].time_ms


def accept(light: LightClient, height: int, *, now_ms: int | None = None, ledger: Ledger = LEDGER) -> int:
    now = ledger.commits[height].time_ms if now_ms is None else now_ms
    return light.accept(codec.encode(ledger.proven(KEY, height)), KEY, now).height


def follow(light: LightClient, eras: int, now_ms: int = START_MS) -> LightClient:
    for data in HANDOVERS[light.era : eras]:
        light.follow(data, now_ms)
    return light


def test_presence_and_absence_are_proven_in_every_era() -> None:
    light = client()
    for height in range(1, 2 * ERAS + 3):
        era = (height - 1) // 2
        if era > light.era:
            with pytest.raises(UnknownEra) as caught:
                accept(light, height)
            assert caught.value.era == era
            assert light.follow(HANDOVERS[era - 1], time_of(height)) == era
        assert accept(light, height) == height
        absent = codec.encode(LEDGER.proven(ABSENT, height))
        assert light.accept(absent, ABSENT, time_of(height)).value is None
    assert (light.era, light.height) == (ERAS, 2 * ERAS + 2)


def test_checkpoints_of_the_eras_just_before_count_and_older_ones_do_not() -> None:
    light = follow(client(), ERAS)
    known = range(ERAS - ERAS_KEPT + 1, ERAS + 1)
    for era in known:
        assert accept(light, 2 * era + 1) == 2 * era + 1
    with pytest.raises(WrongEra):
        accept(follow(client(), ERAS), 2 * known[0])


def test_a_committee_counts_in_its_own_era_only() -> None:
    """Members of another era, before or after, are strangers."""
    height = 5
    light = follow(client(), ERAS)
    proven = LEDGER.proven(KEY, height)
    for members in (LEDGER.members[1], LEDGER.members[3]):
        forged = msgspec.structs.replace(proven, certificate=LEDGER.certificate(height, signers=members))
        with pytest.raises(BadCertificate):
            light.accept(codec.encode(forged), KEY, time_of(height))
    # Nor may they say that their commit is of their own era: that era has ended, or not begun, at this height.
    for era in (1, 3):
        record = msgspec.structs.replace(LEDGER.commits[height], era=era)
        digests = (record.digest(), LEDGER.chain.root_at(height))
        certificate = LEDGER.certificate(height, signers=LEDGER.members[era], era=era, digests=digests)
        forged = msgspec.structs.replace(proven, certificate=certificate, commit=codec.encode(record))
        light = follow(client(), 3)
        with pytest.raises(PeerFault) as caught:
            light.accept(codec.encode(forged), KEY, time_of(height))
        assert caught.value.code == ("conflicting_certificates" if era > light.era - ERAS_KEPT else "wrong_era")


def test_a_certificate_of_a_negative_era_is_refused() -> None:
    proven = msgspec.structs.replace(LEDGER.proven(KEY, 1), certificate=LEDGER.certificate(1, era=-1))
    with pytest.raises(WrongEra):
        client().accept(codec.encode(proven), KEY, START_MS)


def test_a_doubled_signer_and_a_checkpoint_below_quorum_are_refused_by_name() -> None:
    light = follow(client(), 2)
    proven = LEDGER.proven(KEY, 5)  # weights 1 to 5, quorum 11
    statement, signatures = proven.certificate.statement, proven.certificate.signatures
    members = LEDGER.members[2]
    for certificate, error in (
        (Certificate(statement, (*signatures, signatures[-1])), DoubledSigner),
        (Certificate(statement, signatures[::-1]), DoubledSigner),
        (certify(statement, members[:4]), BelowQuorum),
        (certify(statement, members[3:]), BelowQuorum),
    ):
        with pytest.raises(error):
            light.accept(
                codec.encode(msgspec.structs.replace(proven, certificate=certificate)), KEY, START_MS + 2 * ERA_MS
            )
    certificate = certify(statement, members[2:])  # 3 + 4 + 5 of 15
    light.accept(codec.encode(msgspec.structs.replace(proven, certificate=certificate)), KEY, time_of(5))


def signed_twice(made: Handover) -> Handover:
    first, *others = made.certificate.signatures
    return Handover(Certificate(made.certificate.statement, (first, first, *others)), made.plan)


def wrongly_signed(made: Handover) -> Handover:
    (key, _), *others = made.certificate.signatures
    signatures = ((key, others[0][1]), *others)
    return Handover(Certificate(made.certificate.statement, signatures), made.plan)


def with_plan(**changes: Any) -> Handover:
    """A hand-over, signed by all, to a plan with other values."""
    return FRESH.handover(msgspec.structs.replace(PLAN, **changes))


def of_another_chain() -> Handover:
    other = Ledger(name="another")
    other.commit(time_ms=START_MS)
    return other.hand_over()


REFUSALS: list[tuple[str, Callable[[], Handover], type[BlockCloudError]]] = [
    ("forged signature", lambda: wrongly_signed(FRESH.handover(PLAN)), BadSignature),
    ("strangers", lambda: FRESH.handover(PLAN, signers=NEW[:4]), BadCertificate),
    ("doubled signer", lambda: signed_twice(FRESH.handover(PLAN)), DoubledSigner),
    ("below quorum", lambda: FRESH.handover(PLAN, signers=VALIDATORS[:2]), BelowQuorum),
    ("nobody", lambda: Handover(Certificate(FRESH.handover(PLAN).certificate.statement, ()), PLAN), BelowQuorum),
    (
        "another plan",
        lambda: Handover(FRESH.handover(PLAN).certificate, with_plan(beacon=bytes(32)).plan),
        PlanMismatch,
    ),
    ("another chain", of_another_chain, WrongChain),
    ("renamed chain", lambda: FRESH.handover(PLAN, chain_id=ZERO_DIGEST), WrongChain),
    ("a checkpoint", lambda: FRESH.handover(PLAN, kind="checkpoint"), BadCertificate),
    ("too few digests", lambda: FRESH.handover(PLAN, digests=(ZERO_DIGEST,) * 2), BadCertificate),
    ("first height too low", lambda: with_plan(first_height=2), WrongFirstHeight),
    ("first height too high", lambda: with_plan(first_height=4), WrongFirstHeight),
    ("an era without commits", lambda: FRESH.handover(with_plan(first_height=1).plan, height=0), WrongFirstHeight),
    ("its own era", lambda: FRESH.handover(PLAN, era=1), WrongEra),
    ("a plan of another era", lambda: FRESH.handover(with_plan(era=2).plan, era=0), WrongEra),
    ("into the first era", lambda: with_plan(era=0), WrongEra),
    ("skipped era", lambda: with_plan(era=2), SkippedEra),
    ("no members", lambda: with_plan(seats=()), Malformed),
    ("a member twice", lambda: with_plan(seats=PLAN.seats[:1] * 2), Malformed),
    ("a bond of nothing", lambda: FRESH.handover(FRESH.plan(NEW[:4], [1, 1, 1, 0])), Malformed),
    ("short beacon", lambda: with_plan(beacon=b"short"), Malformed),
]


@pytest.mark.parametrize(("make", "error"), [item[1:] for item in REFUSALS], ids=[item[0] for item in REFUSALS])
def test_a_bad_hand_over_is_refused_by_name_and_changes_nothing(
    make: Callable[[], Handover], error: type[BlockCloudError]
) -> None:
    light = client()
    with pytest.raises(PeerFault) as caught:
        light.follow(codec.encode(make()), START_MS)
    assert type(caught.value) is error
    assert (light.era, light.evidence) == (0, ())
    assert light.follow(codec.encode(FRESH.handover(PLAN)), START_MS) == 1


def test_no_hand_over_leads_into_the_first_era() -> None:
    """Also where nobody asks which eras are known."""
    made = with_plan(era=0)
    with pytest.raises(WrongEra):
        made.verify(FRESH.chain_id, FRESH.genesis.committee().weights_by_key)
    weights = FRESH.handover(PLAN).verify(FRESH.chain_id, FRESH.genesis.committee().weights_by_key).weights_by_key
    assert weights == {key.public: BOND for key in NEW[:4]}


def test_the_refusals_have_codes_of_their_own() -> None:
    errors = (TrustExpired, BadSignature, WrongEra, DoubledSigner, BelowQuorum, PlanMismatch, SkippedEra, WrongChain)
    errors += (ConflictingHandovers, WrongFirstHeight, UnknownEra)
    assert len({error.code for error in errors}) == len(errors)


def test_bytes_that_are_no_hand_over_are_refused() -> None:
    for bad, error in ((b"", Malformed), (HANDOVERS[0][:-1], Malformed), (bytes(HANDOVER_BYTES + 1), Oversized)):
        with pytest.raises(error):
            client().follow(bad, START_MS)


def test_a_hand_over_is_signed_by_the_era_that_ends() -> None:
    """Not by the one that begins, however many of it sign."""
    light = follow(client(), 1)
    ledger = ledger_in_era_0()
    ledger.hand_over(*COMMITTEES[0])
    for _ in (1, 2):
        ledger.commit(time_ms=START_MS + ERA_MS)
    plan = ledger.plan(*COMMITTEES[1])
    for signers in (COMMITTEES[1][0], VALIDATORS):
        with pytest.raises(BadCertificate):
            light.follow(codec.encode(ledger.handover(plan, signers=signers)), START_MS)
    assert light.follow(codec.encode(ledger.handover(plan)), START_MS) == 2


def test_a_hand_over_of_before_is_no_news_and_one_of_long_ago_is_refused() -> None:
    light = follow(client(), ERAS)
    assert light.follow(HANDOVERS[-1], START_MS) == ERAS
    # Another three quarters of the same signers say the same thing.
    made = LEDGER.handovers[-1]
    fewer = Handover(Certificate(made.certificate.statement, made.certificate.signatures[1:]), made.plan)
    assert light.follow(codec.encode(fewer), START_MS) == ERAS
    with pytest.raises(WrongEra):
        light.follow(HANDOVERS[0], START_MS)


def test_two_hand_overs_into_one_era_are_evidence_and_end_the_trust() -> None:
    light = follow(client(), 1)
    accept(light, 3)
    good = light.state()
    other = codec.encode(FRESH.handover(FRESH.plan(NEW[:4], [BOND] * 4, protocol_version=2)))
    with pytest.raises(ConflictingHandovers):
        light.follow(other, time_of(3))
    assert light.evidence == (HANDOVERS[0], other)
    with pytest.raises(ConflictingCertificates):
        accept(light, 3)
    with pytest.raises(ConflictingCertificates):
        light.follow(HANDOVERS[1], time_of(3))
    assert good is not None
    kept = light.state()
    assert kept is not None
    with pytest.raises(ConflictingCertificates):
        accept(client(trusted=kept), 3)  # a restart does not make it forget
    light.trust(good)
    assert accept(light, 3) == 3


def test_a_conflict_needs_a_quorum() -> None:
    light = follow(client(), 1)
    other = FRESH.handover(FRESH.plan(NEW[:4], [BOND] * 4, protocol_version=2), signers=VALIDATORS[:2])
    with pytest.raises(BelowQuorum):
        light.follow(codec.encode(other), START_MS)
    assert light.evidence == ()


def test_a_checkpoint_beyond_the_end_of_its_era_is_evidence() -> None:
    """Members who have handed over cannot go on, nor go back on the last height that they signed."""
    longer = ledger_in_era_0()
    longer.commit(time_ms=START_MS + 30_000)
    light = follow(client(), 1)
    with pytest.raises(ConflictingCertificates):
        accept(light, 3, ledger=longer)
    assert light.evidence == (HANDOVERS[0], codec.encode(longer.certificate(3)))

    different = Ledger()
    for _ in (1, 2):
        different.commit(time_ms=START_MS + 5_000)
    light = follow(client(), 1)
    with pytest.raises(ConflictingCertificates):
        accept(light, 2, ledger=different)
    assert len(light.evidence) == 2


def test_a_hand_over_below_a_certified_height_of_its_era_is_evidence() -> None:
    longer = ledger_in_era_0()
    longer.commit(time_ms=START_MS + 30_000)
    light = client()
    accept(light, 3, ledger=longer)
    with pytest.raises(ConflictingCertificates):
        light.follow(HANDOVERS[0], START_MS + 30_000)
    assert light.evidence == (codec.encode(longer.certificate(3)), HANDOVERS[0])
    assert light.era == 0

    different = Ledger()
    for _ in (1, 2):
        different.commit(time_ms=START_MS + 5_000)
    light = client()
    accept(light, 2, ledger=different)
    with pytest.raises(ConflictingCertificates):
        light.follow(HANDOVERS[0], START_MS + 5_000)


def test_the_last_height_of_an_era_agrees_with_its_hand_over() -> None:
    light = client()
    accept(light, 2)
    assert follow(light, 1, time_of(2)).era == 1
    assert accept(light, 2) == 2


def test_an_era_has_a_commit_at_least() -> None:
    ledger = ledger_in_era_0()
    ledger.hand_over(*COMMITTEES[0])
    light = client()
    light.follow(codec.encode(ledger.handovers[0]), START_MS)
    with pytest.raises(WrongEra):
        light.follow(codec.encode(ledger.handover(ledger.plan(*COMMITTEES[1]))), START_MS)


def test_the_plan_that_the_service_chain_makes_can_be_followed() -> None:
    ledger = Ledger(era_length=20)
    for number in range(20):
        assert ledger.next_era is None
        ledger.commit(time_ms=START_MS + 1_000 * number)
    assert ledger.next_era is not None
    made = ledger.handover(ledger.next_era)
    light = LightClient(ledger.genesis)
    assert light.follow(codec.encode(made), START_MS) == 1
    assert made.plan.first_height == 21


# The trusting period


def test_trust_ends_after_the_trusting_period_until_a_fresh_certificate_is_given() -> None:
    light = client()
    accept(light, 2)
    last_ms = time_of(2) + PERIOD_S * 1_000
    assert light.follow(HANDOVERS[0], last_ms) == 1
    for refused in (lambda: light.follow(HANDOVERS[1], last_ms + 1), lambda: accept(light, 4, now_ms=last_ms + 1)):
        with pytest.raises(TrustExpired):
            refused()
    friend = follow(client(), ERAS)
    accept(friend, 2 * ERAS + 2)
    given = friend.state()
    assert given is not None
    light.trust(given)
    now_ms = time_of(2 * ERAS + 2)
    assert accept(light, 2 * ERAS + 2, now_ms=now_ms) == 2 * ERAS + 2
    with pytest.raises(TrustExpired):
        accept(light, 2 * ERAS + 2, now_ms=now_ms + PERIOD_S * 1_000 + 1)


def test_a_client_that_comes_back_in_time_goes_on_for_ever() -> None:
    """Its trust is as old as its newest certificate, not as its first."""
    light = LightClient(LEDGER.genesis, trusting_period_s=ERA_MS // 1_000)
    for era in range(ERAS + 1):
        if era:
            light.follow(HANDOVERS[era - 1], time_of(2 * era + 1))
        accept(light, 2 * era + 1)


def test_a_hand_over_alone_is_not_fresh() -> None:
    """It has no time of its own, so following does not prolong the trust."""
    light = client()
    accept(light, 2)
    last_ms = time_of(2) + PERIOD_S * 1_000
    follow(light, ERAS, last_ms)
    with pytest.raises(TrustExpired):
        accept(light, 2 * ERAS + 2, now_ms=last_ms + 1)


def test_a_newcomer_follows_from_the_genesis_years_later_and_is_held_to_the_period_then() -> None:
    years_ms = 5 * 365 * 24 * 3_600_000
    old = client()
    now_ms = START_MS + years_ms
    follow(old, ERAS, now_ms)
    # What is old is refused and not remembered: one node that is behind must not end a newcomer's trust.
    with pytest.raises(StaleProof):
        accept(old, 2 * ERAS + 1, now_ms=now_ms)
    with pytest.raises(StaleProof):
        old.accept(codec.encode(LEDGER.proven(KEY, 2 * ERAS + 1)), KEY, now_ms, max_age_s=years_ms // 1_000)
    assert (old.newest, old.state()) == (None, None)

    ledger = make_ledger()
    height = ledger.commit(time_ms=now_ms)
    assert accept(old, height, ledger=ledger) == height
    with pytest.raises(TrustExpired):
        accept(old, height, ledger=ledger, now_ms=now_ms + PERIOD_S * 1_000 + 1)


def test_a_careful_newcomer_does_not_take_an_old_genesis_for_enough() -> None:
    careful = client(genesis_suffices=False)
    assert careful.follow(HANDOVERS[0], START_MS + PERIOD_S * 1_000) == 1
    with pytest.raises(TrustExpired):
        careful.follow(HANDOVERS[1], START_MS + PERIOD_S * 1_000 + 1)
    with pytest.raises(TrustExpired):
        accept(careful, 1, now_ms=START_MS + PERIOD_S * 1_000 + 1)


# Starting from a trusted certificate


def trusted(eras: int) -> TrustedState:
    light = follow(client(), eras)
    accept(light, 2 * eras + 1)
    state = light.state()
    assert state is not None
    return state


@pytest.mark.parametrize("eras", range(ERAS + 1))
def test_a_client_goes_on_from_a_trusted_certificate(eras: int) -> None:
    state = codec.decode(codec.encode(trusted(eras)), TrustedState, limit=10**6)
    light = client(trusted=state)
    assert (light.era, light.height, light.newest_time_ms) == (eras, 2 * eras + 1, time_of(2 * eras + 1))
    assert accept(light, 2 * eras + 2) == 2 * eras + 2
    follow(light, ERAS, time_of(2 * eras + 2))
    assert accept(light, 2 * ERAS + 2) == 2 * ERAS + 2
    assert light.era == ERAS


def test_a_restart_near_the_end_of_an_era_still_knows_the_one_before() -> None:
    light = client(trusted=trusted(3))
    before = light.accept(codec.encode(LEDGER.proven(KEY, 6)), KEY, time_of(7), max_age_s=ERA_MS // 1_000)
    assert (before.height, light.height) == (6, 7)


def test_only_the_first_hand_over_of_a_trusted_state_is_taken_as_it_is() -> None:
    state = trusted(3)
    last = wrongly_signed(state.handovers[-1])
    with pytest.raises(BadSignature):
        client(trusted=msgspec.structs.replace(state, handovers=(*state.handovers[:-1], last)))


def test_the_trusted_era_alone_is_enough() -> None:
    """What somebody reads out on the telephone: one hand-over and a time."""
    state = TrustedState(LEDGER.chain_id, (LEDGER.handovers[2],), None, time_of(7))
    light = client(trusted=state)
    assert accept(light, 7) == 7
    with pytest.raises(WrongEra):
        accept(light, 6, now_ms=time_of(7))
    assert light.follow(HANDOVERS[3], time_of(8)) == ERAS


def test_hand_overs_that_were_followed_without_a_checkpoint_since_are_kept() -> None:
    light = client()
    accept(light, 1)
    follow(light, ERAS, time_of(1))
    state = light.state()
    assert state is not None
    assert client(trusted=state).era == ERAS


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda state: msgspec.structs.replace(state, chain_id=ZERO_DIGEST), WrongChain),
        (lambda state: msgspec.structs.replace(state, handovers=state.handovers[::-1]), SkippedEra),
        (lambda state: msgspec.structs.replace(state, handovers=state.handovers[::2]), SkippedEra),
        (lambda state: msgspec.structs.replace(state, handovers=state.handovers[:1]), WrongEra),
        (lambda state: msgspec.structs.replace(state, handovers=state.handovers * 2), Malformed),
        (lambda state: msgspec.structs.replace(state, handovers=(of_another_chain(),)), WrongChain),
        (
            lambda state: msgspec.structs.replace(state, newest=LEDGER.certificate(7, chain_id=ZERO_DIGEST)),
            BadCertificate,
        ),
        (
            lambda state: msgspec.structs.replace(state, newest=LEDGER.certificate(7, signers=VALIDATORS)),
            BadCertificate,
        ),
        (lambda state: msgspec.structs.replace(state, evidence=(b"one",)), Malformed),
    ],
)
def test_a_trusted_state_that_does_not_fit_together_is_refused(
    change: Callable[[TrustedState], TrustedState], error: type[BlockCloudError]
) -> None:
    light = client()
    with pytest.raises(error):
        light.trust(change(trusted(3)))
    assert accept(light, 1) == 1


def test_a_trusted_certificate_from_the_future_does_not_count() -> None:
    light = client(trusted=msgspec.structs.replace(trusted(1), time_ms=time_of(3) + 30_001))
    with pytest.raises(ProofFromFuture):
        accept(light, 3)
