"""Which certificate proves a height, and the proof under it: what a node answers about its state at a checkpoint.

Every checkpoint that the state can still prove (the newest `RETAINED_CHECKPOINTS`) has its certificate in the tables,
which keep those of 10,000 commits; the last one of an era has that of the hand-over, whose statement names the same
commit and root. A checkpoint whose certificate this node never saw whole is passed over: the next one is proved
instead. DESIGN section 3.6.
"""

from __future__ import annotations

from blockcloud.node.applying import SharedChain
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.primitives import codec
from blockcloud.primitives.certificates import Certificate
from blockcloud.primitives.limits import STATE_VALUE_BYTES
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.records import CurrentEra
from blockcloud.service_chain.state import NotACheckpoint, Pruned
from blockcloud.service_chain.state_keys import CURRENT_ERA_KEY


def certificate_at(chain: SharedChain, tables: LedgerTables, height: int) -> Certificate:
    """The certificate that proves exactly `height`. From any thread.

    Raises FutureHeight, NotACheckpoint (the nearest heights that can be proved are among its values) or Pruned.
    """
    chain.require_reached(height)
    heights = chain.proof_heights()
    if height in heights:
        certificate = _stored(chain, tables, height)
        if certificate is not None:
            return certificate
        raise _not_here(chain, tables, height, "this checkpoint is not certified here")
    try:
        chain.root_at(height)
    except NotACheckpoint:
        raise _not_here(chain, tables, height) from None
    raise Pruned(height=height, oldest=_nearest(chain, tables, height)[1])


def certificate_from(chain: SharedChain, tables: LedgerTables, height: int) -> Certificate:
    """The certificate of the first height at or above `height` that can be proved. From any thread.

    Raises FutureHeight, or NotACheckpoint if nothing there is certified yet.
    """
    chain.require_reached(height)
    for checkpoint in chain.proof_heights():
        if checkpoint >= height and (certificate := _stored(chain, tables, checkpoint)) is not None:
            return certificate
    raise _not_here(chain, tables, height, "no checkpoint from this height on is certified yet")


def certificate_until(chain: SharedChain, tables: LedgerTables, height: int) -> Certificate:
    """The certificate of the last height at or below `height` that can be proved. From any thread.

    Raises FutureHeight or Pruned.
    """
    chain.require_reached(height)
    for checkpoint in reversed(chain.proof_heights()):
        if checkpoint <= height and (certificate := _stored(chain, tables, checkpoint)) is not None:
            return certificate
    raise Pruned(height=height, oldest=_nearest(chain, tables, height)[1])


def prove_value(chain: SharedChain, tables: LedgerTables, key: bytes, certificate: Certificate) -> ProvenValue:
    """The value of `key` at the height of `certificate`, with its proof. A fraction of a millisecond; at an older
    height some milliseconds for the first one. Raises NotACheckpoint or Pruned."""
    height = certificate.statement.height
    proof = chain.prove(key, height)
    commit = tables.commit_bytes(height)
    if commit is None:
        raise NotACheckpoint("this node has not reached the checkpoint", height=height)
    return ProvenValue(key, chain.get(key, height) or b"", proof, certificate, commit)


def _stored(chain: SharedChain, tables: LedgerTables, height: int) -> Certificate | None:
    """The certificate of the checkpoint at `height`, or of the hand-over that it ends an era with."""
    certificate = tables.certificate(height)
    if certificate is not None:
        return certificate
    value = chain.get(CURRENT_ERA_KEY, height)
    if value is None:
        return None
    # The last commit of an era has written the number of the next one.
    handover = tables.handover(codec.decode(value, CurrentEra, limit=STATE_VALUE_BYTES).era)
    return handover if handover is not None and handover.statement.height == height else None


def _not_here(chain: SharedChain, tables: LedgerTables, height: int, message: str = "") -> NotACheckpoint:
    """There is no proof at `height`; between which heights there are some."""
    below, above = _nearest(chain, tables, height)
    return NotACheckpoint(message, height=height, below=below, above=above)


def _nearest(chain: SharedChain, tables: LedgerTables, height: int) -> tuple[int | None, int | None]:
    """The heights below and above `height` that can be proved, the nearest ones; None where there is none."""
    certified = [one for one in chain.proof_heights() if _stored(chain, tables, one) is not None]
    below, above = [one for one in certified if one < height], [one for one in certified if one > height]
    return below[-1] if below else None, above[0] if above else None
