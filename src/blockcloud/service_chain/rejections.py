"""Why the ledger refuses a transaction: one class for each reason, with a stable code.

Two families. `Unpaid`: the transaction may not act at all, nothing is charged, no receipt is left, and the same bytes
may become good later (a sequence that is not yet due). `Failed`: it was entitled to act and its fee is paid, but an
operation broke a rule; all its operations are undone and the receipt says why.
"""

from __future__ import annotations

from typing import Final

from blockcloud.primitives.errors import Rejected

OK: Final = "ok"
# The same transaction has its receipt already: not a rule broken, so not a class.
DUPLICATE: Final = "duplicate"


class Unpaid(Rejected):
    """The transaction is void: nothing happens, nothing is paid."""

    code = "void"


class WrongSigner(Unpaid):
    """The signing keys are not exactly those that may act for the sender on this lane."""

    code = "wrong_signer"
    hint = "`blockcloud account show ADDRESS` lists an account's keys; --account names another than the key's own."


class TooFewSigners(Unpaid):
    """Fewer of the account's keys have signed than its threshold asks for."""

    code = "too_few_signers"
    hint = (
        "Name more key files with --cosign, or write the transaction to a file with --draft FILE, let the others run "
        "`blockcloud tx sign FILE`, then `blockcloud tx send FILE`."
    )


class TooManySigners(Unpaid):
    """More of the account's keys have signed than its threshold asks for."""

    code = "too_many_signers"
    hint = "Exactly as many sign as the threshold says: leave one out."


class StaleSequence(Unpaid):
    """The lane has used this sequence already."""

    code = "stale_sequence"
    hint = "Ask for the account's sequence and sign again."


class FutureSequence(Unpaid):
    """The lane is not yet at this sequence: one before it is missing."""

    code = "future_sequence"


class TransactionExpired(Unpaid):
    """The ledger is above the height up to which the transaction is valid."""

    code = "expired"


class FeeLimitTooLow(Unpaid):
    """The fee is higher than the transaction allows."""

    code = "fee_limit_too_low"


class FeeNotPayable(Unpaid):
    """The sender's balance, or what its lane may still spend, does not cover the fee."""

    code = "fee_not_payable"


class UnknownLane(Unpaid):
    """The account has no open lane of this number."""

    code = "unknown_lane"


class LaneEnded(Unpaid):
    """A change of the account's keys has ended the lane."""

    code = "lane_ended"
    hint = "Open another lane; closing this one returns its deposit."


class LaneExpired(Unpaid):
    """The lane's last height has passed."""

    code = "lane_expired"


class OperationNotAllowed(Unpaid):
    """The lane may not carry this operation."""

    code = "operation_not_allowed"


class Failed(Rejected):
    """An operation broke a rule; the fee is paid, and nothing else has happened."""

    code = "failed"


class InsufficientBalance(Failed):
    """The account does not hold this amount."""

    code = "insufficient_balance"


class BelowNewKeyDeposit(Failed):
    """The first transfer to a new account is at least the deposit for a new key."""

    code = "below_new_key_deposit"


class SpendingCapExceeded(Failed):
    """The lane may not spend this much."""

    code = "spending_cap_exceeded"


class CandidateKeepsKey(Failed):
    """An account with a bond is the node key of a validator, so it has that key and no other."""

    code = "candidate_keeps_key"
    hint = "Keep what a validator earns in another account, and share that one."


class LaneNumberUsed(Failed):
    """A lane gets a higher number than any lane of the account had before."""

    code = "lane_number_used"


class LaneNotOpen(Failed):
    """There is no such lane to close."""

    code = "lane_not_open"


class LaneAlreadyOver(Failed):
    """A lane cannot be opened with an expiry that has passed."""

    code = "lane_already_over"


class PreorderExists(Failed):
    """The sender has this preorder already, and its window is open."""

    code = "preorder_exists"


class PreorderMissing(Failed):
    """No preorder of the sender opens to this name and salt."""

    code = "preorder_missing"
    hint = "Preorder first, then register with the same name, salt and account."


class PreorderTooYoung(Failed):
    """The preorder must be some commits old before the name is revealed."""

    code = "preorder_too_young"


class PreorderTooOld(Failed):
    """The window of the preorder has closed; preorder again."""

    code = "preorder_too_old"


class UnknownName(Failed):
    """No such name is registered."""

    code = "unknown_name"


class NameTaken(Failed):
    """The name is registered, or its owner may still renew it."""

    code = "name_taken"


class NameExpired(Failed):
    """The name's lifetime is over."""

    code = "name_expired"
    hint = "In its grace period the owner may renew it; after that anybody may register it."


class NameRevoked(Failed):
    """The name's owner gave it up."""

    code = "name_revoked"


class NameTooDeep(Failed):
    """The name has more labels than may be registered."""

    code = "name_too_deep"


class NameChangedAlready(Failed):
    """A name changes at most once in a commit."""

    code = "name_changed_already"


class NotNameOwner(Failed):
    """The sender does not own the name."""

    code = "not_name_owner"


class NotParentOwner(Failed):
    """A name above this one is registered, and the sender does not own it."""

    code = "not_parent_owner"


class InstanceExists(Failed):
    """The name has this instance key already."""

    code = "instance_exists"


class UnknownInstance(Failed):
    """The name has no such instance key."""

    code = "unknown_instance"


class TooManyInstances(Failed):
    """The name has as many instance keys as it may have."""

    code = "too_many_instances"


class NotACandidate(Failed):
    """The sender has never bonded."""

    code = "not_a_candidate"


class BondBelowMinimum(Failed):
    """A bond is nothing, or at least the minimum."""

    code = "bond_below_minimum"


class InsufficientBond(Failed):
    """The bond is smaller than this amount."""

    code = "insufficient_bond"


class AddressMissing(Failed):
    """The first bond says where the candidate's links and its client API are."""

    code = "address_missing"


class TooManyCandidates(Failed):
    """There are as many candidates as there may be."""

    code = "too_many_candidates"


class TooManyUnbondings(Failed):
    """The candidate has as many unbonding amounts as it may have; withdraw first."""

    code = "too_many_unbondings"


class NothingToWithdraw(Failed):
    """No unbonding amount has waited out both its eras and its time."""

    code = "nothing_to_withdraw"


class StakeNeeded(Failed):
    """What was unbonded weighed in a committee that stayed, and can still be slashed for what that one signed."""

    code = "stake_needed"


class Jailed(Failed):
    """The candidate is jailed."""

    code = "jailed"


class NotJailed(Failed):
    """The candidate is not jailed."""

    code = "not_jailed"


class JailedInThisEra(Failed):
    """A candidate asks back in in a later era than the one it was jailed in."""

    code = "jailed_in_this_era"


class NotTheNextEra(Failed):
    """A candidate gets ready for the next era only."""

    code = "not_the_next_era"


class CandidatesFrozen(Failed):
    """Bonds and keys for the next era are frozen already."""

    code = "candidates_frozen"


class ReadyAlready(Failed):
    """The candidate is ready for this era, with the key it named first."""

    code = "ready_already"


class ConsensusKeyUsed(Failed):
    """This consensus key is or was somebody's."""

    code = "consensus_key_used"


class NotAMember(Failed):
    """The sender is not in the present committee."""

    code = "not_a_member"


class OutsideBeaconWindow(Failed):
    """Reveals count in the beacon window of an era only."""

    code = "outside_beacon_window"


class NoOnion(Failed):
    """The candidate has no onion that counts in this era."""

    code = "no_onion"


class RevealedAlready(Failed):
    """A member reveals once in an era."""

    code = "revealed_already"


class OnionTooDeep(Failed):
    """The onion is used up, or too many reveals were missed; register a new tip."""

    code = "onion_too_deep"


class WrongReveal(Failed):
    """The value is not this era's layer of the sender's onion."""

    code = "wrong_reveal"


class StakeAddressMissing(Failed):
    """Who puts up resources for the first time says where it is examined."""

    code = "stake_address_missing"


class NothingStaked(Failed):
    """There is no stake to take back."""

    code = "nothing_staked"


class NoOpenRound(Failed):
    """No round of challenges is open: not yet drawn, settled already, or nobody has put anything up."""

    code = "no_open_round"


class RoundNotBegun(Failed):
    """The tests of the round have not begun."""

    code = "round_not_begun"


class NotAChallenger(Failed):
    """The sender was not drawn as a challenger of the open round."""

    code = "not_a_challenger"


class ReportOfAnotherRound(Failed):
    """The report is about another round than the open one."""

    code = "report_of_another_round"


class WrongReportRows(Failed):
    """A report has a row for each candidate of the round."""

    code = "wrong_report_rows"


class ReportedAlready(Failed):
    """A challenger reports once; the first report stands."""

    code = "reported_already"


class EvidenceOutdated(Failed):
    """The evidence is of an era that is not judged: still to come, or too long ago."""

    code = "evidence_outdated"


class EvidenceOfAnotherChain(Failed):
    """The evidence was signed for another chain."""

    code = "evidence_of_another_chain"


class NotOfTheAccused(Failed):
    """The key that signed the evidence had no such seat in its era."""

    code = "not_of_the_accused"


class OffenceKnown(Failed):
    """This offence was reported before."""

    code = "offence_known"


class NothingToSlash(Failed):
    """The accused has neither a bond nor an unbonding amount."""

    code = "nothing_to_slash"


class PolicyMalformed(Failed):
    """The policy does not parse, or its types do not fit."""

    code = "policy_malformed"
    hint = "`blockcloud policy test` tries a policy before it is bound."


class PolicyUnknownType(Failed):
    """The policy refers to a type, action, role or attribute that there is not."""

    code = "policy_unknown_type"
    hint = "There are Account, Role and Name, the action connect, and the context of docs/how-to/who-may-connect.md."


class PolicyTooLarge(Failed):
    """The policy has more bytes than it may have."""

    code = "policy_too_large"


class PolicyTooComplex(Failed):
    """The policy has too much of something: rules, roles, nesting."""

    code = "policy_too_complex"


class PolicyEmpty(Failed):
    """The policy has no rule; it would refuse everybody."""

    code = "policy_empty"
    hint = "To let everybody in again, remove the policy: blockcloud policy remove."


class NoPolicy(Failed):
    """The name has no policy to remove."""

    code = "no_policy"


class RoleMember(Failed):
    """The account is in the role already."""

    code = "role_member"


class NotRoleMember(Failed):
    """The account is not in the role."""

    code = "not_role_member"


class TooManyMembers(Failed):
    """The role has as many members as it may have."""

    code = "too_many_members"


class GrantRevokedAlready(Failed):
    """The grant was revoked before."""

    code = "grant_revoked_already"


class TooManyRevocations(Failed):
    """The name has as many revoked grants as it may have; revoke all grants up to now instead."""

    code = "too_many_revocations"
