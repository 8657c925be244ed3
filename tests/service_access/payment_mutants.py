"""Planted bugs of paid sessions, books and the HTTP door; and the tests that must find them."""

from __future__ import annotations

from tests.service_access.access_mutants import judge
from tests.transaction_chain.mutants import Mutant

TILL = "service_access/payment/till.py"
PURSE = "service_access/payment/purse.py"
BOOK = "service_access/payment/book.py"
MESSAGES = "service_access/payment/messages.py"
DOOR = "service_access/payment/http_door.py"

SESSIONS = judge("payment/test_paid_sessions.py")
BOOKS = judge("payment/test_voucher_book.py")
REQUESTS = judge("payment/test_http_door.py")

PAYMENT = [
    Mutant(
        "a session is charged to whatever agreement it names",
        TILL,
        "        verify_attach(message, session_id, account.record.voucher_key)\n",
        "",
        SESSIONS,
    ),
    Mutant(
        "an agreement is good at every instance",
        TILL,
        "        if agreement_id(record.client, salt_for(self._instance, nonce), height) != agreement:\n",
        "        if not record.client:\n",
        SESSIONS,
    ),
    Mutant(
        "what passes is not counted",
        TILL,
        "        self.seen_bytes += passed\n",
        "        self.seen_bytes += 0\n",
        SESSIONS,
    ),
    Mutant(
        "the credit is twice what was said",
        TILL,
        "        units = (payee.promised + payee.credit) // payee.channel.unit_price\n        return",
        "        units = (payee.promised + 2 * payee.credit) // payee.channel.unit_price\n        return",
        SESSIONS,
    ),
    Mutant(
        "a voucher counts that is in no book",
        TILL,
        "            await loop.run_in_executor(self._writer, self._book.take, payee.channel.agreement, standing)\n",
        "            del loop\n",
        SESSIONS,
    ),
    Mutant(
        "any price is paid",
        PURSE,
        "                opened = await self._buyer.open(session.name, session.peer_key, terms, self.left)\n",
        "                cheap = Terms(terms.unit, 1, terms.credit_units)\n"
        "                opened = await self._buyer.open(session.name, session.peer_key, cheap, self.left)\n",
        SESSIONS,
    ),
    Mutant(
        "a provider that asks is paid ahead without end",
        PURSE,
        "        share = opened.channel.deposited // AHEAD_SHARE // terms.unit_price\n",
        "        share = opened.channel.deposited\n",
        SESSIONS,
    ),
    Mutant(
        "a number is given as often as one likes",
        BOOK,
        '                " WHERE (excluded.epoch, excluded.sequence) > (given.epoch, given.sequence)",\n',
        '                " WHERE 1",\n',
        BOOKS,
    ),
    Mutant(
        "the voucher of the request before pays for this one",
        DOOR,
        "        if payment.voucher == payee.standing.best:\n",
        "        if payment.voucher is payee:\n",
        REQUESTS,
    ),
    Mutant(
        "a request is served on credit",
        DOOR,
        "        if payee.promised < (served + 1) * payee.channel.unit_price:\n",
        "        if payee.promised < served * payee.channel.unit_price:\n",
        REQUESTS,
    ),
    Mutant(
        "the signature that ties a session to an agreement is over the agreement alone",
        MESSAGES,
        "    verify(voucher_key, ATTACH_DOMAIN, session_id + message.agreement, message.signature)\n",
        "    verify(voucher_key, ATTACH_DOMAIN, message.agreement, message.signature)\n",
        SESSIONS,
    ),
]
