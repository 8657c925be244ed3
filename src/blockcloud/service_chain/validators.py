"""What validators say about themselves on the chain. The committee is the genesis' for now; eras come next."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from blockcloud.service_chain.accounts import Context, Event
from blockcloud.service_chain.operations import AnnounceEndpoint
from blockcloud.service_chain.records import ValidatorRecord
from blockcloud.service_chain.rejections import NotAValidator
from blockcloud.service_chain.state_keys import validator_key
from blockcloud.service_chain.working_state import WorkingState


def apply_announce_endpoint(
    state: WorkingState, sender: bytes, operation: AnnounceEndpoint, context: Context
) -> Sequence[Event]:
    """Publish where the sender's client API is, so that a client with only the genesis finds it."""
    key = validator_key(sender)
    record = state.get(key, ValidatorRecord)
    if record is None:
        raise NotAValidator
    state.put(key, msgspec.structs.replace(record, api_url=operation.api_url))
    return [("endpoint", sender)]
