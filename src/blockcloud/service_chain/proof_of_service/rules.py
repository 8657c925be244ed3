"""The rules of proof of service, by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from blockcloud.service_chain.accounts import Context, Event
from blockcloud.service_chain.proof_of_service.cases import apply_appeal, apply_claim_breach, apply_judge
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
from blockcloud.service_chain.proof_of_service.services import apply_fund, apply_plant_audit, apply_reveal_audit
from blockcloud.service_chain.proof_of_service.verifiers import (
    apply_commit,
    apply_register,
    apply_retire,
    apply_reveal,
)
from blockcloud.service_chain.working_state import WorkingState

PROOF_OF_SERVICE_RULES: Final[Mapping[type, Callable[[WorkingState, bytes, Any, Context], Sequence[Event]]]] = {
    RegisterVerifier: apply_register,
    RetireVerifier: apply_retire,
    CommitScores: apply_commit,
    RevealScores: apply_reveal,
    FundVerification: apply_fund,
    PlantAudit: apply_plant_audit,
    RevealAudit: apply_reveal_audit,
    JudgeCase: apply_judge,
    AppealCase: apply_appeal,
    ClaimBreach: apply_claim_breach,
}
