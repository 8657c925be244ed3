"""Proof of service on the ledger: what each operation does, what is refused and why, who is paid and who pays."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration, Malformed, PeerFault
from blockcloud.service_chain.agreements.keys import agreement_id
from blockcloud.service_chain.agreements.operations import ClaimVoucher, WithdrawOffer
from blockcloud.service_chain.agreements.vouchers import Voucher, sign_voucher
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.operations import Operation, TransferName, check_operation
from blockcloud.service_chain.proof_of_service.cases import TRANSITIONS
from blockcloud.service_chain.proof_of_service.keys import audit_commitment
from blockcloud.service_chain.proof_of_service.operations import (
    AppealCase,
    ClaimBreach,
    CommitScores,
    FundVerification,
    JudgeCase,
    PlantAudit,
    RegisterVerifier,
    RetireVerifier,
    RevealAudit,
    RevealScores,
)
from blockcloud.service_chain.proof_of_service.parameters import ProofOfServiceParameters
from blockcloud.service_chain.proof_of_service.records import CaseStatus
from blockcloud.service_chain.proof_of_service.scores import Score, commitment
from tests.service_chain.agreements.channel_world import BOND as PROVIDER_BOND
from tests.service_chain.agreements.channel_world import (
    CLIENT,
    NAME,
    PROVIDER,
    STRANGER,
    VOUCHER_KEY,
    offer,
    opening,
)
from tests.service_chain.era_world import NODES
from tests.service_chain.ledger_in_memory import PROOF_OF_SERVICE, USERS
from tests.service_chain.proof_of_service.verification_world import (
    BOND,
    BY_KEY,
    COMMIT_END,
    POT,
    PROBES,
    REVEAL_END,
    SALT,
    VERIFIERS,
    VerificationWorld,
    onion,
)

PAY = POT * PROOF_OF_SERVICE.pay_ppm // 1_000_000


@pytest.fixture
def world() -> VerificationWorld:
    return VerificationWorld()


def honest(number: int, name: str) -> int:
    return 1


def drawn_now(world: VerificationWorld) -> list[int]:
    return [number for number in range(len(world.verifiers)) if world.drawn(number)]


def open_agreement(world: VerificationWorld, paid: int = 10_000) -> bytes:
    """An agreement of the client, on which so much is paid."""
    assert world.ledger.run(CLIENT, opening(duration_ms=100_000)) == "ok"
    agreement = agreement_id(CLIENT.public, opening().salt, world.ledger.height)
    voucher = Voucher(world.ledger.chain.chain_id, agreement, 0, 1, paid, 0)
    assert world.ledger.run(STRANGER, ClaimVoucher(sign_voucher(voucher, VOUCHER_KEY))) == "ok"
    return agreement


def test_the_median_is_the_score_and_those_who_agree_share_the_pay(world: VerificationWorld) -> None:
    reporting = drawn_now(world)
    assert len(reporting) >= 4
    liar = reporting[0]
    before = {number: world.balance(VERIFIERS[number]) for number in reporting}
    world.play_era(lambda number, name: 90 if number == liar else 1)
    share = PAY // len(reporting)
    fees = [before[number] - world.balance(VERIFIERS[number]) for number in reporting]
    # All paid the same fees, and all but the liar had the same pay.
    assert fees[1:] == [fees[0] - share] * (len(reporting) - 1)
    assert world.pot() == POT - share * (len(reporting) - 1)
    record = world.service()
    assert (record.failed_ppm, record.verdict_era, record.reports) == (10_000, world.era - 1, ())
    assert record.latency_ms == sorted(20 + number for number in reporting)[(len(reporting) - 1) // 2]
    assert [world.verifier(number).bond for number in range(12)] == [BOND] * 12
    world.check_money()


def test_fewer_than_three_reports_are_no_verdict(world: VerificationWorld) -> None:
    two = drawn_now(world)[:2]
    world.play_era(lambda number, name: 1 if number in two else None)
    assert world.service().verdict_era == -1
    assert world.pot() == POT
    world.check_money()


def test_whoever_was_drawn_and_says_nothing_is_slashed(world: VerificationWorld) -> None:
    quiet = drawn_now(world)[0]
    idle = next(number for number in range(12) if not world.drawn(number))
    world.play_era(lambda number, name: None if number == quiet else 1)
    assert world.verifier(quiet).bond == BOND * 95 // 100
    assert world.verifier(idle).bond == BOND
    world.check_money()


def test_whoever_does_not_reveal_is_slashed_drawn_or_not(world: VerificationWorld) -> None:
    idle = next(number for number in range(12) if not world.drawn(number))
    world.play_era(honest, silent=[idle])
    assert world.verifier(idle).bond == BOND * 95 // 100
    # It goes on with the layer of the era, not with the next one.
    world.play_era(honest)
    assert world.verifier(idle).reveals == 2
    assert world.verifier(idle).bond == BOND * 95 // 100
    world.check_money()


def test_a_bond_that_became_too_small_ends_the_service() -> None:
    world = VerificationWorld(6)
    while world.serves(0):
        world.play_era(honest, silent=[0])
    bond = world.verifier(0).bond
    assert 0 < bond < PROOF_OF_SERVICE.bond_min
    world.play_era(honest, silent=[0])
    assert world.verifier(0).bond == bond
    assert world.run(0, RegisterVerifier(VERIFIERS[0].public, onion(0, 1).tip, 5_000)) == "ok"
    assert world.verifier(0).from_era == world.era + 2
    world.check_money()


def test_what_is_refused_of_commitments_and_reveals(world: VerificationWorld) -> None:
    number = drawn_now(world)[0]
    idle = next(one for one in range(12) if not world.drawn(one))
    value, scores = world.value(number), world.scores(number, honest)
    hidden = commitment(VERIFIERS[number].public, world.era, scores, SALT)
    reveal = RevealScores(value, SALT, scores)
    assert world.ledger.run(STRANGER, CommitScores(hidden)) == "not_a_verifier"
    assert world.run(number, reveal) == "outside_reveal_window"
    assert world.run(number, CommitScores(hidden)) == "ok"
    assert world.run(number, CommitScores(bytes(32))) == "scores_committed_already"
    # Somebody copies the commitment, and would reveal the same.
    assert world.run(idle, CommitScores(hidden)) == "ok"
    world.go_to(COMMIT_END)
    assert world.run(number - 1, CommitScores(hidden)) == "outside_commit_window"
    assert world.run(idle, replace(reveal, value=world.value(idle))) == "wrong_scores"
    assert world.run(number, replace(reveal, value=onion(number).reveal(2))) == "wrong_ticket_reveal"
    payloads = [
        world.ledger.sign(VERIFIERS[number], one, sequence=world.ledger.sequence(VERIFIERS[number]) + later)
        for later, one in enumerate((replace(reveal, scores=(replace(scores[0], failed=2),)), reveal, reveal))
    ]
    assert world.ledger.commit(*payloads) == ["wrong_scores", "ok", "scores_revealed_already"]
    world.check_money()


def test_a_reveal_that_comes_too_late(world: VerificationWorld) -> None:
    world.go_to(REVEAL_END)
    assert world.run(0, RevealScores(world.value(0), SALT, ())) == "outside_reveal_window"
    assert world.verifier(0).bond == BOND * 95 // 100
    world.go_to(COMMIT_END)
    # The layer of an era that is over proves nothing now.
    assert world.run(0, RevealScores(onion(0).reveal(1), SALT, ())) == "wrong_ticket_reveal"


def test_scores_of_what_one_was_not_drawn_for_and_of_too_few_probes(world: VerificationWorld) -> None:
    idle = next(one for one in range(12) if not world.drawn(one))
    lucky = drawn_now(world)[0]
    made_up = (Score(NAME, PROBES, 100, 1, 1, bytes(32)),)
    thin = (Score(NAME, PROOF_OF_SERVICE.probes_min - 1, 0, 1, 1, bytes(32)),)
    assert world.run(idle, CommitScores(commitment(VERIFIERS[idle].public, world.era, made_up, SALT))) == "ok"
    assert world.run(lucky, CommitScores(commitment(VERIFIERS[lucky].public, world.era, thin, SALT))) == "ok"
    world.go_to(COMMIT_END)
    assert world.run(idle, RevealScores(world.value(idle), SALT, made_up)) == "not_drawn"
    assert world.run(lucky, RevealScores(world.value(lucky), SALT, thin)) == "too_few_probes"
    assert world.service().reports == ()


@pytest.mark.parametrize("owned", [True, False])
def test_nobody_verifies_what_belongs_to_his_owner(owned: bool) -> None:
    world = VerificationWorld(6)
    number = drawn_now(world)[0]
    # The provider becomes a verifier itself, and says who owns it.
    owner = VERIFIERS[number] if owned else STRANGER
    tip = onion(20).tip
    assert world.ledger.run(PROVIDER, RegisterVerifier(owner.public, tip, BOND)) == "ok"
    scores = world.scores(number, honest)
    hidden = commitment(VERIFIERS[number].public, world.era, scores, SALT)
    assert world.run(number, CommitScores(hidden)) == "ok"
    world.go_to(COMMIT_END)
    expected = "not_drawn" if owned else "ok"
    assert world.run(number, RevealScores(world.value(number), SALT, scores)) == expected


def test_registering_retiring_and_coming_back(world: VerificationWorld) -> None:
    register = RegisterVerifier(STRANGER.public, onion(30).tip, BOND)
    run = world.ledger.run
    assert run(STRANGER, replace(register, bond=9_999)) == "verifier_bond_too_small"
    assert run(STRANGER, replace(register, onion_tip=b"")) == "not_a_verifier"
    assert run(STRANGER, RetireVerifier()) == "not_a_verifier"
    assert run(STRANGER, replace(register, bond=2**52)) == "insufficient_balance"
    assert run(STRANGER, register) == "ok"
    assert run(STRANGER, register) == "verifier_already"
    assert run(STRANGER, replace(register, onion_tip=b"")) == "ok"
    # It is too young to say anything in this era and the next.
    assert run(STRANGER, CommitScores(bytes(32))) == "verifier_not_serving"
    assert run(STRANGER, RetireVerifier()) == "ok"
    assert run(STRANGER, RetireVerifier()) == "verifier_bond_held"
    world.end_era()
    world.end_era()
    before = world.balance(STRANGER)
    assert run(STRANGER, RetireVerifier()) == "ok"
    assert world.balance(STRANGER) > before + 2 * BOND - 10_000
    assert run(STRANGER, RetireVerifier()) == "not_a_verifier"
    world.check_money()


def test_the_chain_has_room_for_so_many_verifiers() -> None:
    world = VerificationWorld(3)
    keys = [*VERIFIERS[3:], *USERS[1:], *NODES]
    codes = []
    for number, key in enumerate(keys):
        if key in VERIFIERS:
            continue
        codes.append(world.ledger.run(key, RegisterVerifier(key.public, onion(40 + number).tip, BOND)))
    assert codes == ["ok"] * 14
    rest = PROOF_OF_SERVICE.verifiers - 3 - 14
    assert rest == 3


def test_what_is_refused_of_pots(world: VerificationWorld) -> None:
    run = world.ledger.run
    assert run(STRANGER, FundVerification("nobody", 5_000)) == "nothing_offered"
    codes = []
    for name in ("b", "c", "d"):
        assert world.ledger.register(PROVIDER, name) == "ok"
        assert run(PROVIDER, offer(name=name)) == "ok"
        assert run(STRANGER, FundVerification(name, 999)) == "pot_too_small"
        codes.append(run(STRANGER, FundVerification(name, 1_000)))
    assert codes == ["ok", "ok", "too_many_services"]
    # More for what is verified already is always welcome.
    assert run(STRANGER, FundVerification("b", 1)) == "ok"
    world.check_money()


def test_a_case_from_accusation_to_the_clients_money(world: VerificationWorld) -> None:
    agreement = open_agreement(world)
    case = world.accused()
    record = world.case(case)
    assert (record.status, record.failed_ppm, len(record.judges) >= 3) == (CaseStatus.JUDGING, 500_000, True)
    assert not [judge for judge in record.judges if judge in record.accusers]
    judge, other = BY_KEY[record.judges[0]], next(n for n in range(12) if VERIFIERS[n].public not in record.judges)
    assert world.run(other, JudgeCase(case, True)) == "not_a_judge"
    assert world.run(judge, JudgeCase(case, True)) == "ok"
    assert world.run(judge, JudgeCase(case, False)) == "judged_already"
    assert world.run(judge, JudgeCase(bytes(32), False)) == "unknown_case"
    assert world.ledger.run(PROVIDER, AppealCase(case)) == "not_appealable"
    assert world.ledger.run(CLIENT, ClaimBreach(case, agreement)) == "case_not_final"
    world.play_era(honest, guilty=lambda number: True)
    assert world.case(case).status is CaseStatus.CONVICTED
    assert world.run(judge, JudgeCase(case, True)) == "case_not_judged"
    world.play_era(honest)
    assert world.case(case).status is CaseStatus.FINAL
    assert world.provider_bond() == PROVIDER_BOND * 95 // 100
    assert world.ledger.run(PROVIDER, AppealCase(case)) == "appeal_too_late"
    assert world.ledger.run(PROVIDER, offer()) == "provider_quarantined"
    before = world.balance(CLIENT)
    assert world.ledger.run(STRANGER, ClaimBreach(case, agreement)) == "ok"
    # Half of it failed, and twice that is everything.
    assert world.balance(CLIENT) - before == 10_000
    assert world.ledger.run(STRANGER, ClaimBreach(case, agreement)) == "breach_paid"
    assert world.ledger.run(STRANGER, ClaimBreach(case, bytes(32))) == "not_in_breach"
    world.check_money()


def test_two_thirds_convict_and_the_silent_count(world: VerificationWorld) -> None:
    case = world.accused()
    judges = [BY_KEY[judge] for judge in world.case(case).judges]
    assert len(judges) >= 4
    quiet = judges[: len(judges) // 3 + 1]
    world.play_era(honest, guilty=lambda number: None if number in quiet else True)
    assert world.case(case).status is CaseStatus.DISMISSED
    assert world.service().case == b""
    assert [world.verifier(number).bond for number in judges if number in quiet] == [BOND * 95 // 100] * len(quiet)
    assert [world.verifier(number).bond for number in judges if number not in quiet] == [BOND] * (
        len(judges) - len(quiet)
    )
    assert world.standing() is None
    world.check_money()


@pytest.mark.parametrize("upheld", [True, False])
def test_an_appeal_has_a_larger_panel_and_the_last_word(world: VerificationWorld, upheld: bool) -> None:
    case = world.accused()
    first = world.case(case).judges
    world.play_era(honest, guilty=lambda number: True)
    assert world.ledger.run(STRANGER, AppealCase(case)) == "not_the_accused"
    assert world.ledger.run(PROVIDER, AppealCase(case)) == "ok"
    assert world.ledger.run(PROVIDER, AppealCase(case)) == "appeal_too_late"
    bond = world.provider_bond()
    world.play_era(honest)
    record = world.case(case)
    assert (record.status, len(record.judges) >= len(first)) == (CaseStatus.APPEAL_JUDGING, True)
    assert world.ledger.run(PROVIDER, AppealCase(case)) == "appeal_too_late"
    before = world.balance(PROVIDER)
    world.play_era(honest, guilty=lambda number: upheld)
    assert world.case(case).status is (CaseStatus.FINAL if upheld else CaseStatus.DISMISSED)
    assert world.balance(PROVIDER) - before == (0 if upheld else PROOF_OF_SERVICE.appeal_bond)
    assert world.provider_bond() == (bond * 95 // 100 if upheld else bond)
    assert (world.standing() is None) == (not upheld)
    world.check_money()


def test_claims_end_and_the_bond_is_held_until_then(world: VerificationWorld) -> None:
    agreement = open_agreement(world)
    case = world.accused()
    assert world.ledger.run(PROVIDER, WithdrawOffer(NAME)) == "ok"
    assert world.ledger.run(PROVIDER, WithdrawOffer(NAME)) == "bond_held"
    world.play_era(honest, guilty=lambda number: True)
    for _ in range(2 + PROOF_OF_SERVICE.claim_eras):
        world.end_era()
    assert world.case(case).status is CaseStatus.CLOSED
    assert world.ledger.run(STRANGER, ClaimBreach(case, agreement)) == "breach_too_late"
    assert world.noted().cases == ()
    world.check_money()


def test_a_bond_does_not_leave_while_the_service_is_verified(world: VerificationWorld) -> None:
    assert world.ledger.run(PROVIDER, WithdrawOffer(NAME)) == "ok"
    assert world.ledger.run(PROVIDER, WithdrawOffer(NAME)) == "bond_held"
    world.play_era(honest)
    assert world.ledger.run(PROVIDER, WithdrawOffer(NAME)) == "ok"
    assert world.provider_bond() == 0


def test_quarantine_ends_and_the_second_conviction_bans(world: VerificationWorld) -> None:
    for banned in (False, True):
        case = world.accused()
        world.play_era(honest, guilty=lambda number: True)
        world.end_era()
        standing = world.standing()
        assert standing is not None
        assert (standing.convictions, standing.banned) == (1 + banned, banned)
        assert world.ledger.run(CLIENT, opening()) == ("provider_banned" if banned else "provider_quarantined")
        for _ in range(PROOF_OF_SERVICE.quarantine_eras + 1):
            world.end_era()
        assert world.case(case).status is CaseStatus.CLOSED
        assert world.ledger.run(PROVIDER, offer()) == ("provider_banned" if banned else "ok")
        if not banned:
            assert world.ledger.run(STRANGER, FundVerification(NAME, 1_000)) == "ok"
            world.end_era()
    world.check_money()


def test_a_lower_promise_does_not_clear_the_provider(world: VerificationWorld) -> None:
    world.play_era(lambda number, name: 4)
    found = world.service().likelihood
    assert found > 0
    assert world.ledger.run(PROVIDER, offer(quality_ppm=900_000)) == "ok"
    world.end_era()
    assert (world.service().likelihood, world.service().quality_ppm) == (found, 900_000)
    assert world.ledger.run(PROVIDER, TransferName(NAME, STRANGER.public)) == "ok"
    world.end_era()
    assert world.noted().names == ()


def audit_world() -> tuple[VerificationWorld, tuple[str, ...]]:
    """Two members of the committee have services that they can make fail."""
    world = VerificationWorld()
    for auditor, name in ((NODES[0], "b"), (NODES[1], "c")):
        assert world.ledger.register(auditor, name) == "ok"
        assert world.ledger.run(auditor, offer(name=name)) == "ok"
        assert world.ledger.run(USERS[0], FundVerification(name, POT)) == "ok"
    return world, ("b", "c")


def test_audits_pay_the_truthful_and_two_of_them_slash() -> None:
    world, names = audit_world()
    for auditor, name in zip(NODES, names, strict=False):
        hidden = audit_commitment(auditor.public, name, world.era + 1, 400_000, SALT)
        assert world.ledger.run(STRANGER, PlantAudit(name, hidden)) == "not_an_auditor"
        assert world.ledger.run(auditor, PlantAudit(name, hidden)) == "ok"
        assert world.ledger.run(auditor, PlantAudit(name, bytes(32))) == "audit_planted"
        assert world.ledger.run(auditor, RevealAudit(name, 400_000, SALT)) == "no_audit"
    world.end_era()
    drawn = {number: world.drawn(number) for number in range(12)}
    # Most say that all is well; an honest minority probes.
    lazy = [number for number in range(12) if "b" in drawn[number] and "c" in drawn[number]][:1]
    once = [number for number in range(12) if ("b" in drawn[number]) != ("c" in drawn[number])][:1]
    assert lazy, once
    liars = [*lazy, *once]
    bonds = [world.verifier(number).bond for number in range(12)]
    told = {n: world.scores(n, lambda number, name: 40 if name in names and number not in liars else 1) for n in drawn}
    world.commit((VERIFIERS[n], CommitScores(commitment(VERIFIERS[n].public, world.era, told[n], SALT))) for n in told)
    assert world.ledger.run(NODES[0], RevealAudit("b", 400_000, SALT)) == "outside_reveal_window"
    world.go_to(COMMIT_END)
    world.commit((VERIFIERS[n], RevealScores(world.value(n), SALT, told[n])) for n in told)
    assert world.ledger.run(NODES[0], RevealAudit("b", 399_999, SALT)) == "wrong_audit"
    for auditor, name in zip(NODES, names, strict=False):
        assert world.ledger.run(auditor, RevealAudit(name, 400_000, SALT)) == "ok"
    assert world.ledger.run(NODES[0], RevealAudit("b", 400_000, SALT)) == "audit_planted"
    world.end_era()
    after = [world.verifier(number).bond for number in range(12)]
    assert [number for number in range(12) if after[number] != bonds[number]] == lazy
    assert after[lazy[0]] == bonds[lazy[0]] * 80 // 100
    assert [len(world.verifier(number).missed) for number in once] == [1] * len(once)
    # Nobody is accused for what was planted, and the names have served their time.
    assert world.noted().names == (NAME,)
    assert [world.service(name).case for name in names] == [b"", b""]
    world.check_money()


@pytest.mark.parametrize("status", list(CaseStatus))
def test_every_status_has_a_word_for_every_operation(status: CaseStatus) -> None:
    assert list(TRANSITIONS[status]) == [JudgeCase, AppealCase, ClaimBreach]


@pytest.mark.parametrize(
    "operation",
    [
        RegisterVerifier(bytes(32), b"short", 1),
        RevealScores(bytes(32), SALT, (Score("b", 5, 6, 1, 1, bytes(32)),)),
        RevealScores(bytes(32), SALT, (Score("b", 9, 1, 1, 1, bytes(32)),) * 2),
        RevealScores(bytes(32), SALT, (Score("b", 9, 1, 1, 1, bytes(32)), Score("a", 9, 1, 1, 1, bytes(32)))),
        RevealScores(bytes(32), SALT, (Score("B..", 9, 1, 1, 1, bytes(32)),)),
        FundVerification("..", 5),
    ],
)
def test_what_makes_no_sense_is_refused_without_the_state(operation: Operation) -> None:
    with pytest.raises(PeerFault):
        check_operation(operation)


@pytest.mark.parametrize(
    "score",
    [
        Score("b", 0, 0, 1, 1, bytes(32)),
        Score("b", 10_001, 0, 1, 1, bytes(32)),
        Score("b", 5, -1, 1, 1, bytes(32)),
        Score("b", 5, 1, 2**60, 1, bytes(32)),
        Score("b", 5, 1, 1, -5, bytes(32)),
        Score("b", 5, 1, 1, 1, b"root"),
    ],
)
def test_scores_out_of_range_are_malformed(score: Score) -> None:
    data = codec.encode(RevealScores(bytes(32), SALT, (score,)))
    with pytest.raises(Malformed):
        codec.decode(data, RevealScores, limit=10_000)


@pytest.mark.parametrize(
    "changed",
    [
        {"drawn": 2},
        {"judges": 2},
        {"appeal_judges": 5},
        {"commit_percent": 95},
        {"pay_ppm": 960_000},
        {"verifiers": 2_000},
        {"services": 0},
        {"bond_min": 0},
        {"probes_min": 0},
        {"onion_length": 0},
        {"provider_slash_ppm": 2_000_000},
    ],
)
def test_parameters_must_fit_together(changed: dict[str, int]) -> None:
    with pytest.raises(BadConfiguration):
        ProofOfServiceParameters(**changed).check()


def test_the_group_of_the_genesis_survives_its_file() -> None:
    genesis = VerificationWorld(3).ledger.genesis
    assert Genesis.from_json(genesis.to_json()).proof_of_service == PROOF_OF_SERVICE
