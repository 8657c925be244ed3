"""Why the ledger refuses an operation of proof of service: one class for each reason, with a stable code."""

from __future__ import annotations

from blockcloud.service_chain.rejections import Failed


class VerifierBondTooSmall(Failed):
    """The bond is less than the chain asks of a verifier."""

    code = "verifier_bond_too_small"


class VerifierBondTooLarge(Failed):
    """The bond would be more than any amount may be."""

    code = "verifier_bond_too_large"


class VerifierAlready(Failed):
    """The sender is a verifier, and its onion stays."""

    code = "verifier_already"
    hint = "Leave the tip empty to put up a larger bond."


class NotAVerifier(Failed):
    """The sender is not registered as a verifier."""

    code = "not_a_verifier"


class NotServing(Failed):
    """The verifier does not serve in this era: it is too young, retired, or its bond has become too small."""

    code = "verifier_not_serving"


class TooManyVerifiers(Failed):
    """The chain has as many verifiers as it may."""

    code = "too_many_verifiers"


class VerifierBondHeld(Failed):
    """The bond stands for what the verifier did not long ago."""

    code = "verifier_bond_held"


class OutsideCommitWindow(Failed):
    """Scores of this era are not committed any more."""

    code = "outside_commit_window"


class OutsideRevealWindow(Failed):
    """Scores and audits are revealed later in the era, or could have been earlier."""

    code = "outside_reveal_window"


class CommittedAlready(Failed):
    """The verifier has committed its scores of this era."""

    code = "scores_committed_already"


class ScoresRevealedAlready(Failed):
    """The verifier has revealed its scores of this era."""

    code = "scores_revealed_already"


class VerifierOnionTooDeep(Failed):
    """The onion has no layer for this era."""

    code = "verifier_onion_too_deep"
    hint = "Retire, and register again with a new onion."


class WrongTicketReveal(Failed):
    """The value is not the layer of the verifier's onion that this era asks for."""

    code = "wrong_ticket_reveal"


class WrongScores(Failed):
    """The scores are not those that were committed in this era."""

    code = "wrong_scores"


class NotDrawn(Failed):
    """The verifier was not drawn for the service, or it belongs to its provider."""

    code = "not_drawn"


class TooFewProbes(Failed):
    """A score stands on fewer probes than the chain asks for."""

    code = "too_few_probes"


class PotTooSmall(Failed):
    """The pot would not pay for verification."""

    code = "pot_too_small"


class PotTooLarge(Failed):
    """The pot would be more than any amount may be."""

    code = "pot_too_large"


class TooManyServices(Failed):
    """The chain verifies as many services as it may."""

    code = "too_many_services"


class NothingOffered(Failed):
    """The owner of the name offers nothing under it."""

    code = "nothing_offered"


class NotAnAuditor(Failed):
    """Only a member of the committee plants audits, under a name of its own that is verified."""

    code = "not_an_auditor"


class AuditPlanted(Failed):
    """The audit of this service and era stands, or is revealed."""

    code = "audit_planted"


class NoAudit(Failed):
    """The sender has planted no audit of this service and era."""

    code = "no_audit"


class WrongAudit(Failed):
    """This is not what was planted."""

    code = "wrong_audit"


class UnknownCase(Failed):
    """There is no such case."""

    code = "unknown_case"


class CaseNotJudged(Failed):
    """Judges are not asked now."""

    code = "case_not_judged"


class NotAJudge(Failed):
    """The sender was not drawn for this panel."""

    code = "not_a_judge"


class JudgedAlready(Failed):
    """The judge has said what it thinks."""

    code = "judged_already"


class NotAppealable(Failed):
    """There is no conviction to appeal against, or not yet."""

    code = "not_appealable"


class AppealTooLate(Failed):
    """The time for appeals is over, or this was the last instance."""

    code = "appeal_too_late"


class NotTheAccused(Failed):
    """Only the convicted provider may appeal."""

    code = "not_the_accused"


class CaseNotFinal(Failed):
    """Nobody is convicted for good, so nothing is paid."""

    code = "case_not_final"


class BreachTooLate(Failed):
    """The time for claims from this conviction is over."""

    code = "breach_too_late"


class NotInBreach(Failed):
    """The agreement is not with the convicted provider of the name, or began after the accusation."""

    code = "not_in_breach"


class BreachPaid(Failed):
    """Nothing is due to the client, or the bond is used up."""

    code = "breach_paid"
