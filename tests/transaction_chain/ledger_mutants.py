"""Planted bugs of eras: how they end, who sits in the next one, who is punished, what staked resources count for."""

from __future__ import annotations

from tests.transaction_chain.mutants import (
    CORE,
    ERA,
    ERA_ENDS,
    EVIDENCE,
    HANDOVERS,
    NETWORK,
    PACING,
    ROUNDS,
    SEATS,
    Mutant,
)

SERVICE_ERAS = "service_chain/eras.py"
SERVICE_EVIDENCE = "service_chain/evidence.py"
RESOURCES = "service_chain/resources.py"
REWARDS = "service_chain/rewards.py"
STAKING = "service_chain/staking.py"

LEDGER = [
    Mutant(
        "an era never ends",
        CORE,
        "        if record.height == self._last_height:\n",
        "        if record.height == -1:\n",
        ERA_ENDS,
    ),
    Mutant(
        "an ended core makes blocks",
        CORE,
        "if not self.proposing or self.ended or self._heard",
        "if not self.proposing or self._heard",
        ERA_ENDS,
    ),
    Mutant(
        "commits come out after the last one",
        CORE,
        "        while self._may_decide and not self.ended:\n",
        "        while self._may_decide:\n",
        ERA_ENDS,
    ),
    Mutant(
        "payloads caught at the boundary are forgotten",
        CORE,
        "            self._mempool.era_ended()\n",
        "",
        ERA_ENDS,
    ),
    Mutant(
        "payloads are carried before the hand-over is certified",
        CORE,
        " if self.carrying else ()",
        "",
        ERA_ENDS,
    ),
    Mutant(
        "the leader table is forgotten at a restart",
        CORE,
        "        for record in recovered.records:\n            self._changes_table(record)\n",
        "",
        ERA_ENDS,
    ),
    Mutant(
        "decisions with the old leader table stand",
        CORE,
        "        self._may_decide = True\n        return True\n",
        "        return False\n",
        NETWORK,
    ),
    Mutant(
        "the leader table begins where each node happens to be",
        CORE,
        "self._schedule.use_weights(record.level + 1, weights)",
        "self._schedule.use_weights(max(record.level, self.dag.highest_level) + 1, weights)",
        NETWORK,
    ),
    Mutant(
        "whoever missed a level waits like the others",
        PACING,
        "(pace_ms // 4 if leads or missed else 0)",
        "(pace_ms // 4 if leads else 0)",
        ERA_ENDS,
    ),
    Mutant(
        "a third of the old committee hands over",
        ERA,
        "for signed in agreeing) < self._committee.quorum:",
        "for signed in agreeing) <= self._committee.total - self._committee.quorum:",
        HANDOVERS,
    ),
    Mutant(
        "different hand-overs add up",
        ERA,
        "if signed.statement == statement]",
        "]",
        HANDOVERS,
    ),
    Mutant(
        "hand-over signatures are not verified",
        ERA,
        "            signed.verify()\n",
        "",
        HANDOVERS,
    ),
    Mutant(
        "what is bonded after the freeze counts",
        SERVICE_ERAS,
        "bond = min(frozen_bond, candidate.bond)",
        "bond = candidate.bond",
        SEATS,
    ),
    Mutant(
        "a jailed candidate gets a seat",
        SERVICE_ERAS,
        "            if candidate is None or candidate.jailed:\n",
        "            if candidate is None:\n",
        SEATS,
    ),
    Mutant(
        "one offence is punished again and again",
        SERVICE_EVIDENCE,
        "    if state.get(place, Offence) is not None:\n",
        "    if state.get(place, Offence) is not None and not candidate_key:\n",
        EVIDENCE,
    ),
    Mutant(
        "a claim changed between draw and settlement counts",
        RESOURCES,
        "    if record.claim != claim:\n        confirmed = _covered(confirmed, claim, record.claim)\n",
        "    confirmed = confirmed_stake(record.claim.resources, record.confirmed, outcomes)\n",
        ROUNDS,
    ),
    Mutant(
        "another plot keeps the storage of the first",
        RESOURCES,
        "storage if now.plot_root == claim.plot_root else 0",
        "storage",
        ROUNDS,
    ),
    Mutant(
        "a raised claim counts at once",
        RESOURCES,
        "min(found, claimed) for found,",
        "(claimed if found else 0) for found,",
        ROUNDS,
    ),
    Mutant(
        "reports count before the start",
        RESOURCES,
        "    if context.height < opened.height:\n",
        "    if context.height < opened.height - 1:\n",
        ROUNDS,
    ),
    Mutant(
        "a member that was not drawn reports",
        RESOURCES,
        "    if sender not in opened.challengers:\n",
        "    if sender not in opened.challengers and sender not in opened.candidates:\n",
        ROUNDS,
    ),
    Mutant(
        "the last report stands",
        RESOURCES,
        "    if state.get(place, Report) is not None:\n        raise ReportedAlready",
        "    if state.get(place, Report) == report:\n        raise ReportedAlready",
        ROUNDS,
    ),
    Mutant(
        "a report stays after the settlement",
        RESOURCES,
        "            reports.append((challenger, report))\n            state.delete(place)\n",
        "            reports.append((challenger, report))\n",
        ROUNDS,
    ),
    Mutant(
        "silent challengers lose nothing",
        RESOURCES,
        "    if settlement.forfeits:\n",
        "    if not settlement.forfeits:\n",
        ROUNDS,
    ),
    Mutant(
        "who was silent once forfeits in every era",
        RESOURCES,
        "    state.delete(SILENT_CHALLENGERS_KEY)\n",
        "",
        ROUNDS,
    ),
    Mutant(
        "an unconfirmed claim gives weight",
        RESOURCES,
        "NOTHING if record is None else record.confirmed for",
        "NOTHING if record is None else record.claim.resources for",
        ROUNDS,
    ),
    Mutant(
        "a stake outlives its candidate",
        STAKING,
        "        state.delete(stake_key(sender))\n",
        "        pass\n",
        ROUNDS,
    ),
    Mutant(
        "a forfeit is not burned",
        REWARDS,
        "    burn(state, taken)\n",
        "",
        ROUNDS,
    ),
    Mutant(
        "seats that stay keep the weights of before",
        SERVICE_ERAS,
        "    seats = _weighted(state, _next_seats(state, context))\n",
        "    seats = _next_seats(state, context)\n"
        "    seats = seats if seats == context.plan.seats else _weighted(state, seats)\n",
        ROUNDS,
    ),
]
