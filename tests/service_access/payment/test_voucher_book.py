"""The book of vouchers: what was written is there after a kill, and no number is given twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blockcloud.primitives.errors import StorageFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.payment.book import BookConflict, VoucherBook
from blockcloud.service_chain.agreements.vouchers import Channel, Payee, Payer, Standing, Voucher

KEY = SigningKey(bytes([1]) * 32)
CHANNEL = Channel(bytes([3]) * 32, bytes([4]) * 32, KEY.public, 1_000_000, 100)
KILLED_AFTER = (1, 2, 7, 40)
# Pays and takes without end, and says what is durable.
PROGRAM = """
import sys
from pathlib import Path
from blockcloud.service_access.payment.book import VoucherBook
from blockcloud.service_chain.agreements.vouchers import Payee, Payer
from tests.service_access.payment.test_voucher_book import CHANNEL, KEY

book = VoucherBook(Path(sys.argv[1]))
payer = Payer(CHANNEL, KEY, book.given(CHANNEL.agreement))
payee = Payee(CHANNEL, 10, book.standing(CHANNEL.agreement))
while True:
    signed = payer.pay(100, 1)
    book.give(CHANNEL.agreement, signed.voucher)
    print("given", signed.voucher.sequence, flush=True)
    standing = payee.check(signed)
    book.take(CHANNEL.agreement, standing)
    payee.take(standing)
    payee.take(payee.serve(1))
    print("taken", signed.voucher.sequence, flush=True)
"""


@pytest.fixture
def book(tmp_path: Path) -> VoucherBook:
    return VoucherBook(tmp_path / "vouchers.sqlite")


@pytest.mark.parametrize("lines", KILLED_AFTER)
def test_a_killed_process_has_what_it_said(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "vouchers.sqlite"
    said = {"given": 0, "taken": 0}
    for _ in range(2):  # the second goes on where the first was killed
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        heard = [process.stdout.readline().split() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=30)
        first = int(heard[0][1])
        assert first > said["given"], "no number is given twice"
        for what, number in [*heard, *(line.split() for line in rest.splitlines() if line.count(" ") == 1)]:
            said[what] = max(said[what], int(number))
        book = VoucherBook(path)
        last, standing = book.given(CHANNEL.agreement), book.standing(CHANNEL.agreement)
        book.close()
        assert last is not None
        assert last.sequence >= said["given"]
        taken = standing.best.voucher.sequence if standing.best is not None else 0
        assert taken >= said["taken"]
        # Served and not written: at most what the credit covers.
        assert max(0, said["taken"] - standing.served_units) <= 10


def test_a_number_is_given_once(book: VoucherBook) -> None:
    first, other = Payer(CHANNEL, KEY), Payer(CHANNEL, KEY)
    book.give(CHANNEL.agreement, first.pay(100).voucher)
    with pytest.raises(BookConflict) as caught:
        book.give(CHANNEL.agreement, other.pay(300).voucher)
    assert caught.value.values["number"] == (0, 1)
    last = book.given(CHANNEL.agreement)
    assert last is not None
    assert last.amount == 100
    later = Voucher(CHANNEL.chain_id, CHANNEL.agreement, 1, 1, 200, 0)
    book.give(CHANNEL.agreement, later)  # a new life of the book
    with pytest.raises(BookConflict):
        book.give(CHANNEL.agreement, first.pay(100).voucher)


def test_what_is_taken_is_there_and_what_is_over_is_forgotten(book: VoucherBook) -> None:
    payer, payee = Payer(CHANNEL, KEY), Payee(CHANNEL, 2)
    payee.take(payee.check(payer.pay(500, 5)))
    payee.take(payee.serve(3))
    book.take(CHANNEL.agreement, payee.standing)
    book.close()
    book = VoucherBook(book.path)
    assert book.all_taken() == {CHANNEL.agreement: payee.standing}
    book.forget(CHANNEL.agreement)
    assert book.standing(CHANNEL.agreement) == Standing()
    assert book.given(CHANNEL.agreement) is None


def test_the_file_is_its_owners_and_damage_is_told(book: VoucherBook) -> None:
    assert book.path.stat().st_mode & 0o777 == 0o600
    book._database.execute("INSERT INTO taken VALUES (?, ?)", (bytes(32), b"rubbish"))
    with pytest.raises(StorageFault):
        book.standing(bytes(32))
    with pytest.raises(StorageFault, match="locked"):
        VoucherBook(book.path, wait_s=0.01)
    book._database.execute("PRAGMA user_version = 9")
    book.close()
    with pytest.raises(StorageFault):
        VoucherBook(book.path)
