"""The client against a real HTTP server: failing over, waiting, resubmitting, and never spending twice."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from blockcloud.primitives import codec
from blockcloud.primitives.errors import (
    BadConfiguration,
    BadProof,
    BlockCloudError,
    Busy,
    NotTakingPart,
    Oversized,
    TimedOut,
    Unreachable,
)
from blockcloud.sdk import AsyncClient, Client, submission
from blockcloud.sdk.errors import BadAnswer, NotFound, Refused, rejection
from blockcloud.sdk.submission import validator_order
from blockcloud.service_chain.operations import Preorder, Transfer
from blockcloud.service_chain.rejections import (
    FeeLimitTooLow,
    InsufficientBalance,
    NameTaken,
    NotNameOwner,
    StaleSequence,
    WrongSigner,
)
from blockcloud.service_chain.state_keys import account_key
from blockcloud.service_chain.transaction import TransactionBody, parse_transaction, sign_transaction
from tests.sdk.sdk_world import OTHER, OWNER, World, as_json, problem

SALT = b"s" * 32


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(world.ledger.genesis, now_ms=lambda: world.ledger.now_ms) as made:
        yield made


def signed(world: World, sequence: int = 0, amount: int = 5, height: int = 10**6) -> bytes:
    operations = (Transfer(OTHER.public, amount),)
    body = TransactionBody(world.ledger.chain_id, OWNER.public, 0, sequence, height, 10**6, operations)
    return sign_transaction(body, OWNER)


def closed_url() -> str:
    """The URL of a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def balance(client: AsyncClient) -> int:
    account = await client.account(OTHER.public)
    assert account is not None
    return account.balance


async def test_a_transfer_is_committed_and_its_effect_proven(client: AsyncClient) -> None:
    before = await balance(client)
    receipt = await client.transfer(OWNER, OTHER.public, 7)
    assert receipt.code == "ok"
    assert await balance(client) == before + 7
    assert await client.receipt(receipt.transaction_id) == receipt
    assert await client.receipt(bytes(32)) is None
    assert client.light_client.height >= receipt.height


async def test_a_name_is_registered_and_its_life_followed(client: AsyncClient) -> None:
    await client.preorder_and_register(OWNER, "acme", instance_keys=[b"1" * 32])
    await client.add_instance(OWNER, "acme", b"2" * 32)
    await client.remove_instance(OWNER, "acme", b"1" * 32)
    await client.update_name(OWNER, "acme", b"h" * 32)
    await client.renew_name(OWNER, "acme")
    record = await client.name("acme")
    assert record is not None
    assert (record.owner, record.instance_keys, record.service_file_hash) == (OWNER.public, (b"2" * 32,), b"h" * 32)
    with pytest.raises(NotNameOwner):
        await client.revoke_name(OTHER, "acme")
    with pytest.raises(NameTaken):
        await client.preorder_and_register(OTHER, "acme")
    await client.transfer_name(OWNER, "acme", OTHER.public)
    await client.revoke_name(OTHER, "acme")
    record = await client.name("acme")
    assert record is not None
    assert record.revoked
    assert await client.name("nobody") is None


async def test_many_transactions_go_in_one_request(client: AsyncClient, world: World) -> None:
    receipts = await client.submit_all(OWNER, [[Transfer(OTHER.public, 1)] for _ in range(20)])
    assert [receipt.code for receipt in receipts] == ["ok"] * 20
    posts = [line for node in world.nodes for line in node.requests if line.startswith("POST")]
    assert len(posts) == 1


async def test_concurrent_calls_take_turns_on_a_lane(client: AsyncClient, world: World) -> None:
    before = await balance(client)
    receipts = await asyncio.gather(*(client.transfer(OWNER, OTHER.public, 1) for _ in range(10)))
    assert len({receipt.transaction_id for receipt in receipts}) == 10
    assert await balance(client) == before + 10
    asked = [line for node in world.nodes for line in node.requests if "/v1/accounts/" in line]
    assert len(asked) == 1  # the client knows by itself where its lane stands


async def test_a_transaction_can_be_signed_now_and_submitted_later(client: AsyncClient) -> None:
    raw = await client.signed(OWNER, Transfer(OTHER.public, 1))
    (outcome,) = await client.submit([raw])
    assert outcome.code == "ok"


async def test_the_same_payment_twice_is_two_payments(client: AsyncClient, world: World) -> None:
    """Also where every node is behind: then the second is refused or committed, never taken for the first."""

    async def behind(request: Request) -> Response | None:
        if "accounts" in request.url.path:
            return as_json({"sequence": 0})
        return as_json({"height": 0}) if "status" in request.url.path else None

    for node in world.nodes:
        node.misbehave = behind
    await client.transfer(OWNER, OTHER.public, 5)
    before = await balance(client)
    async with AsyncClient(world.ledger.genesis, now_ms=lambda: world.ledger.now_ms) as other:
        with pytest.raises(StaleSequence):
            await other.transfer(OWNER, OTHER.public, 5)
    assert await balance(client) == before
    with pytest.raises(FeeLimitTooLow):
        await client.transfer(OWNER, OTHER.public, 5, fee_limit=1)
    assert (await client.transfer(OWNER, OTHER.public, 5)).code == "ok"
    assert await balance(client) == before + 5


async def test_a_rejection_has_the_ledgers_class_and_the_lane_goes_on(client: AsyncClient) -> None:
    with pytest.raises(InsufficientBalance):
        await client.transfer(OTHER, OWNER.public, 10**15)
    with pytest.raises(WrongSigner):
        await client.transact(OTHER, Transfer(OTHER.public, 1), sender=OWNER.public)
    assert (await client.transfer(OWNER, OTHER.public, 1)).code == "ok"
    assert rejection("name_taken").code == NameTaken.code
    assert str(rejection("of_tomorrow")).endswith("of_tomorrow")


async def test_a_lane_that_somebody_else_used_is_looked_up_again(client: AsyncClient, world: World) -> None:
    await client.transfer(OWNER, OTHER.public, 1)
    world.ledger.commit(signed(world, sequence=1))
    assert (await client.transfer(OWNER, OTHER.public, 1)).code == "ok"


async def test_the_next_validator_is_asked_when_one_is_down(world: World) -> None:
    for place in range(4):
        urls = [*world.urls[:3]]
        urls.insert(place, closed_url())
        async with AsyncClient(world.ledger.genesis, urls, now_ms=lambda: world.ledger.now_ms) as client:
            assert (await client.transfer(OWNER, OTHER.public, 1)).code == "ok"
            assert await balance(client)
            assert (await client.status())["height"]


async def test_nobody_there_is_said_within_the_time(world: World) -> None:
    async with AsyncClient(world.ledger.genesis, [closed_url(), closed_url()]) as client:
        with pytest.raises(Unreachable):
            await client.status()
        with pytest.raises(Unreachable):
            await client.submit([signed(world)], timeout_s=0.5)
        with pytest.raises(Unreachable):
            await client.proven(account_key(OTHER.public), timeout_s=0.5)


async def test_a_silent_node_is_left_for_the_next(world: World) -> None:
    forever = asyncio.Event()

    async def hang(request: Request) -> Response:
        await forever.wait()
        return Response()

    async with AsyncClient(world.ledger.genesis, attempt_s=0.2, now_ms=lambda: world.ledger.now_ms) as client:
        for node in world.nodes[:3]:
            node.misbehave = hang
        assert await balance(client)
        world.nodes[3].misbehave = hang
        with pytest.raises(TimedOut):
            await client.status()
    forever.set()


async def test_a_commit_whose_answer_was_lost_is_not_made_twice(client: AsyncClient, world: World) -> None:
    """The first node takes the transaction and breaks; the next one says it is there already."""
    before = await balance(client)
    lost: list[str] = []

    async def take_and_break(request: Request) -> Response | None:
        if request.method != "POST" or lost:
            return None
        (raw,) = codec.decode(await request.body(), list[bytes], limit=10**6)
        world.ledger.commit(raw)
        lost.append("once")
        return Response(b"crashed", 500)

    for node in world.nodes:
        node.misbehave = take_and_break
    (outcome,) = await client.submit([signed(world)])
    assert outcome.status == "committed"
    assert outcome.receipt is not None
    assert await balance(client) == before + 5
    (again,) = await client.submit([signed(world)])
    assert again == outcome


async def test_busy_is_waited_for_and_then_given_up(client: AsyncClient, world: World) -> None:
    answers = ["busy", "busy"]

    async def busy(request: Request) -> Response | None:
        if request.method != "POST" or not answers:
            return None
        answers.pop()
        raws = codec.decode(await request.body(), list[bytes], limit=10**6)
        return as_json(
            [{"id": parse_transaction(raw).id.hex(), "status": "busy", "retry_after_ms": 20} for raw in raws]
        )

    for node in world.nodes:
        node.misbehave = busy
    assert (await client.transfer(OWNER, OTHER.public, 1)).code == "ok"
    answers[:] = ["busy"] * 10_000
    with pytest.raises(Busy) as caught:
        await client.submit([signed(world, 1)], timeout_s=0.3)
    assert caught.value.retry_after_ms == 20

    async def all_busy(request: Request) -> Response:
        return problem(Busy("full", retry_after_ms=30), 503, retry_after_ms=30)

    for node in world.nodes:
        node.misbehave = all_busy
    with pytest.raises(Busy):
        await client.submit([signed(world, 1)], timeout_s=0.3)


async def test_a_node_that_takes_no_part_or_stays_busy_is_left_for_the_next(
    client: AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of the order observes, the second is busy for good, the third commits."""
    asked: list[object] = []

    def answering(node: object) -> Callable[[Request], Awaitable[Response | None]]:
        async def answer(request: Request) -> Response | None:
            if request.method != "POST":
                return None
            asked.append(node)
            number = list(dict.fromkeys(asked)).index(node)
            if number == 0:
                return problem(NotTakingPart(), 503)
            return problem(Busy("full", retry_after_ms=5), 503, retry_after_ms=5) if number == 1 else None

        return answer

    monkeypatch.setattr(submission, "WAIT_SECONDS", 0.05)
    for node in world.nodes:
        node.misbehave = answering(node)
    assert (await client.transfer(OWNER, OTHER.public, 1)).code == "ok"
    assert len(dict.fromkeys(asked)) == 3
    assert asked.count(asked[0]) == 1
    assert asked.count(asked[1]) > 1


async def test_some_busy_of_many_are_sent_again_alone(client: AsyncClient, world: World) -> None:
    sizes: list[int] = []

    async def half(request: Request) -> Response | None:
        if request.method != "POST":
            return None
        raws = codec.decode(await request.body(), list[bytes], limit=10**6)
        sizes.append(len(raws))
        if len(sizes) > 1:
            return None
        items = [world.nodes[0]._execute(raw) for raw in raws[:3]]
        items += [{"id": parse_transaction(raw).id.hex(), "status": "busy", "retry_after_ms": 1} for raw in raws[3:]]
        return as_json(items)

    for node in world.nodes:
        node.misbehave = half
    outcomes = await client.submit([signed(world, number) for number in range(8)])
    assert [outcome.status for outcome in outcomes] == ["committed"] * 8
    assert sizes == [8, 5]


async def test_waiting_for_none_returns_what_was_accepted(client: AsyncClient, world: World) -> None:
    async def accept(request: Request) -> Response | None:
        raws = codec.decode(await request.body(), list[bytes], limit=10**6)
        return as_json([{"id": parse_transaction(raw).id.hex(), "status": "accepted"} for raw in raws])

    for node in world.nodes:
        node.misbehave = accept
    (outcome,) = await client.submit([signed(world)], wait="none")
    assert outcome.status == "accepted"
    with pytest.raises(TimedOut):
        await client.submit([signed(world)], timeout_s=0.3)


NONSENSE = [
    Response(b"not json"),
    Response(b"[]"),
    Response(b"{}"),
    Response(b"[1]"),
    Response(b'[{"id": "00", "status": "committed"}]'),
    Response(b"[" * 100_000),
    Response(bytes(9 * 1024 * 1024)),
    Response(b"<html>", 502),
    Response(b'{"code": 7}', 500),
    Response(b'{"code": "BAD CODE\\n"}', 400),
    Response(b"", 302, headers={"Location": "http://127.0.0.1:1/"}),
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
async def test_nonsense_is_passed_over_and_noted(world: World, nonsense: Response) -> None:
    async def babble(request: Request) -> Response:
        return nonsense

    async with AsyncClient(world.ledger.genesis, now_ms=lambda: world.ledger.now_ms) as client:
        for node in world.nodes[:3]:
            node.misbehave = babble
        assert (await client.submit([signed(world)]))[0].status == "committed"
        assert await balance(client)
        world.nodes[3].misbehave = babble
        assert client.transport.refused
        with pytest.raises(BlockCloudError):
            await client.proven(account_key(OTHER.public), timeout_s=1)
        with pytest.raises(BlockCloudError):
            await client.submit([signed(world, 1)], timeout_s=0.3)


async def test_a_receipt_of_another_transaction_is_not_an_acknowledgement(client: AsyncClient, world: World) -> None:
    receipt = await client.transfer(OWNER, OTHER.public, 1)

    async def lie(request: Request) -> Response | None:
        if request.method != "POST":
            return None
        (raw,) = codec.decode(await request.body(), list[bytes], limit=10**6)
        view = {"id": receipt.transaction_id.hex(), "height": 1, "index": 0, "code": "ok", "fee_micro_bloc": 1}
        return as_json([{"id": parse_transaction(raw).id.hex(), "status": "committed", "receipt": view}])

    for node in world.nodes:
        node.misbehave = lie
    with pytest.raises(BadAnswer):
        await client.submit([signed(world, 1)], timeout_s=0.3)


async def test_a_forged_state_answer_is_refused_and_the_next_node_asked(client: AsyncClient, world: World) -> None:
    async def forge(request: Request) -> Response | None:
        if "proof" not in request.url.path:
            return None
        proven = world.ledger.proven(account_key(OTHER.public))
        return Response(codec.encode(msgspec.structs.replace(proven, value=proven.value[:-1] + b"\x09")))

    world.ledger.commit()
    for node in world.nodes[:3]:
        node.misbehave = forge
    assert await balance(client) == 5_000_000
    assert {type(error) for _, error in client.transport.refused} <= {BadProof}
    world.nodes[3].misbehave = forge
    with pytest.raises(BadProof):
        await client.account(OTHER.public, timeout_s=1)


async def test_a_node_cannot_deny_alone(client: AsyncClient, world: World) -> None:
    async def deny(request: Request) -> Response:
        return problem(NotFound("there is no such thing"), 404)

    world.nodes[0].misbehave = deny
    assert await balance(client)
    for node in world.nodes:
        node.misbehave = deny
    with pytest.raises(NotFound):
        await client.account(OTHER.public)
    for node in world.nodes:
        node.misbehave = None


async def test_a_refusal_keeps_its_code(client: AsyncClient, world: World) -> None:
    class OfTomorrow(BlockCloudError):
        code = "of_tomorrow"

    async def refuse(request: Request) -> Response:
        return problem(OfTomorrow("not today"), 409)

    for node in world.nodes:
        node.misbehave = refuse
    with pytest.raises(Refused, match="not today") as caught:
        await client.status()
    assert caught.value.code == "of_tomorrow"
    with pytest.raises(Refused):
        await client.submit([signed(world)])


async def test_a_proof_can_be_waited_for_until_a_height(client: AsyncClient, world: World) -> None:
    async def move(request: Request) -> Response | None:
        world.ledger.commit()
        return None

    for node in world.nodes:
        node.misbehave = move
    found = await client.proven(account_key(OTHER.public), at_least_height=5)
    assert found.height >= 5
    for node in world.nodes:
        node.misbehave = None
    with pytest.raises(TimedOut):
        await client.proven(account_key(OTHER.public), at_least_height=10_000, timeout_s=0.2)


async def test_a_preorder_can_be_taken_up_after_a_crash(client: AsyncClient, world: World) -> None:
    """With the same salt the second attempt finds the preorder of the first."""
    for node in world.nodes:
        node.ticking = False
    with pytest.raises(TimedOut):
        await client.preorder_and_register(OWNER, "acme", salt=SALT, timeout_s=0.3)
    for node in world.nodes:
        node.ticking = True
    await client.preorder_and_register(OWNER, "acme", salt=SALT)
    assert (await client.name("acme")) is not None


def test_lanes_spread_over_the_validators() -> None:
    validators = [(bytes([number]) * 32, str(number)) for number in range(4)]
    first = {validator_order(0, bytes([sender]) * 32, 0, validators)[0] for sender in range(64)}
    assert first == {"0", "1", "2", "3"}
    assert validator_order(0, b"", 1, validators) == validator_order(0, b"", 1, validators[::-1])


async def test_limits_and_configuration_are_checked(client: AsyncClient, world: World) -> None:
    with pytest.raises(Oversized):
        await client.submit([])
    with pytest.raises(Oversized):
        await client.submit([signed(world)] * 1_001)
    for urls in ([], ["ftp://x"]):
        with pytest.raises(BadConfiguration):
            AsyncClient(world.ledger.genesis, urls)


async def test_the_synchronous_client_does_the_same(world: World) -> None:
    def use() -> int:
        with Client(world.ledger.genesis, now_ms=lambda: world.ledger.now_ms) as client:
            receipt = client.transfer(OWNER, OTHER.public, 3)
            assert client.receipt(receipt.transaction_id) == receipt
            client.transact(OWNER, Preorder(b"c" * 32))
            account = client.account(OTHER.public)
            assert client.status()["height"]
            assert account is not None
        client.close()
        return account.balance

    assert await asyncio.to_thread(use) == 5_000_003
    with pytest.raises(BadConfiguration):
        await asyncio.to_thread(Client, world.ledger.genesis, [])
