"""Which providers may offer something: what agreements and markets ask before they take an offer."""

from __future__ import annotations

from blockcloud.service_chain.proof_of_service.keys import VERIFICATION_ERA_KEY, service_key, standing_key
from blockcloud.service_chain.proof_of_service.records import ServiceRecord, StandingRecord, VerificationEra
from blockcloud.service_chain.rejections import Failed
from blockcloud.service_chain.working_state import WorkingState


class ProviderBanned(Failed):
    """The provider was convicted again and again, and may offer nothing any more."""

    code = "provider_banned"


class ProviderQuarantined(Failed):
    """The provider was convicted, and may offer nothing for some eras."""

    code = "provider_quarantined"


def check_standing(state: WorkingState, provider: bytes, era: int) -> None:
    """Raise ProviderBanned or ProviderQuarantined."""
    standing = state.get(standing_key(provider), StandingRecord)
    if standing is None:
        return
    if standing.banned:
        raise ProviderBanned(convictions=standing.convictions)
    if era <= standing.quarantine_era:
        raise ProviderQuarantined(until_era=standing.quarantine_era)


def is_held(state: WorkingState, provider: bytes, name: str) -> bool:
    """Whether the provider's bond must stay: what it delivers is being verified in this era, or a case is not over."""
    record, era = state.get(service_key(name), ServiceRecord), state.get(VERIFICATION_ERA_KEY, VerificationEra)
    if record is None or record.provider != provider:
        return False
    return bool(record.case) or (era is not None and name in era.names)


def is_in_standing(state: WorkingState, provider: bytes, era: int) -> bool:
    """Whether the provider may offer something in `era`."""
    try:
        check_standing(state, provider, era)
    except (ProviderBanned, ProviderQuarantined):
        return False
    return True
