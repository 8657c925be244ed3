"""Whatever is wrong with a request: a problem+json with a code of its own, never a trace."""

from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from blockcloud.api.guard import Guard
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.errors import StorageFault
from blockcloud.primitives.limits import ADDRESS_RECORD_BYTES, HTTP_BODY_BYTES, SERVICE_FILE_BYTES
from blockcloud.routing.service_file import build_service_file, service_file_hash
from tests.api.api_world import Api, check_problem
from tests.node.cluster import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

ZERO_ID = "00" * 32
BAD_PATHS = {
    "/v1/accounts/nobody": (400, "invalid_address"),
    f"/v1/accounts/{format_address(bytes(32))[:-1]}x": (400, "invalid_address"),
    "/v1/names/nobody.test": (404, "not_found"),
    "/v1/names/nobody.test/history": (404, "not_found"),
    "/v1/names/Not_A_Name": (400, "invalid_name"),
    f"/v1/names/{'x' * 300}": (400, "invalid_name"),
    "/v1/names/nobody.test?height=many": (400, "malformed"),
    "/v1/names/nobody.test?height=-1": (400, "malformed"),
    "/v1/names/nobody.test?height=9007199254740992": (404, "future_height"),
    f"/v1/names/nobody.test?height={'9' * 17}": (400, "malformed"),
    f"/v1/transactions/{ZERO_ID}": (404, "not_found"),
    "/v1/transactions/00": (400, "malformed"),
    f"/v1/transactions/{ZERO_ID}/proof": (404, "not_found"),
    "/v1/transactions/00/proof": (400, "malformed"),
    f"/v1/transactions/{'zz' * 32}": (400, "malformed"),
    "/v1/committee/1000": (404, "not_found"),
    "/v1/committee/first": (400, "malformed"),
    f"/v1/committee/{'9' * 5000}": (400, "malformed"),
    "/v1/proof": (400, "malformed"),
    "/v1/proof?key=": (413, "oversized"),
    "/v1/proof?key=abc": (400, "malformed"),
    "/v1/proof?key=xyz0": (400, "malformed"),
    f"/v1/proof?key={'00' * 513}": (413, "oversized"),
    "/v1/proof?key=00&height=1": (404, "not_a_checkpoint"),
    "/v1/proof?key=00&height=9007199254740992": (404, "future_height"),
    "/v1/proof?key=00&height=top": (400, "malformed"),
    f"/v1/service-files/{ZERO_ID}": (404, "not_found"),
    "/v1/service-files/00": (400, "malformed"),
    "/v1/address-records/Not_A_Name": (400, "invalid_name"),
    "/": (404, "unknown_route"),
    "/v2/status": (404, "unknown_route"),
    "/v1/status/": (404, "unknown_route"),
    "/v1/accounts/a/b": (404, "unknown_route"),
    "/%00%ff": (404, "unknown_route"),
}


@pytest.mark.parametrize("path", BAD_PATHS)
async def test_a_bad_question_gets_its_code(api: Api, path: str) -> None:
    await until(lambda: api.validator.certificate is not None)
    status, code = BAD_PATHS[path]
    check_problem(await api.http.get(path), status, code)


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/v1/status"), ("POST", "/v1/status"), ("PATCH", "/livez")])
async def test_a_wrong_method_says_which_are_allowed(api: Api, method: str, path: str) -> None:
    answer = await api.http.request(method, path)
    check_problem(answer, 405, "wrong_method")
    assert answer.headers["allow"] == "GET"


async def test_routing_refuses_what_the_ledger_does_not_announce(api: Api) -> None:
    file = build_service_file("nobody.test", "a service")
    path = f"/v1/service-files/{service_file_hash(file).hex()}"
    check_problem(await api.http.put(path, content=file), 400, "not_announced")
    check_problem(await api.http.put(path, content=file + b" "), 400, "hash_mismatch")
    check_problem(await api.http.put(path, content=bytes(SERVICE_FILE_BYTES + 1)), 413, "oversized")
    check_problem(await api.http.put("/v1/service-files/zz", content=file), 400, "malformed")
    check_problem(await api.http.put("/v1/address-records", content=b"garbage"), 400, "malformed")
    check_problem(await api.http.put("/v1/address-records", content=bytes(ADDRESS_RECORD_BYTES + 1)), 413, "oversized")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", "[::2]:1", "x" * 500])
async def test_another_host_is_misdirected(api: Api, host: str) -> None:
    body = check_problem(await api.http.get("/v1/status", headers={"Host": host}), 421, "misdirected_host")
    assert body["hint"]
    assert len(body["detail"]) < 300


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8700"])
async def test_loopback_is_let_in_under_its_names(api: Api, host: str) -> None:
    assert (await api.http.get("/livez", headers={"Host": host})).status_code == 200


async def test_a_bug_and_a_broken_disk_show_nothing_but_a_code(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> object:
        raise RuntimeError("a secret")

    monkeypatch.setattr(api.validator, "status", bug)
    answer = await api.http.get("/v1/status")
    check_problem(answer, 500, "internal_error")
    assert "secret" not in answer.text

    def broken() -> object:
        raise StorageFault("the disk is gone")

    monkeypatch.setattr(api.validator, "status", broken)
    check_problem(await api.http.get("/v1/status"), 500, "storage_fault")
    monkeypatch.undo()
    assert (await api.http.get("/v1/status")).status_code == 200


async def _through(guard: Guard, headers: list[tuple[bytes, bytes]]) -> int:
    """The status of the guard's answer to GET / with these headers."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await guard({"type": "http", "method": "GET", "path": "/", "headers": headers}, receive, send)
    return int(sent[0]["status"])


async def _fine(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("fine")(scope, receive, send)


@pytest.mark.parametrize(
    ("listens", "host", "status"),
    [
        ("127.0.0.1", "", 421),
        ("127.0.0.1", "192.0.2.7", 421),
        ("192.0.2.7", "192.0.2.7:8700", 200),
        ("192.0.2.7", "node.example", 200),
        ("192.0.2.7", "other.example", 421),
        ("0.0.0.0", "192.0.2.7", 200),  # a page in a browser cannot make a name of that
        ("::", "[2001:db8::1]:8700", 200),
        ("0.0.0.0", "192.0.2.7.evil.example", 421),
    ],
)
async def test_which_hosts_are_ours(listens: str, host: str, status: int) -> None:
    guard = Guard(_fine, listens, ["node.example"])
    assert await _through(guard, [(b"host", host.encode())]) == status


@pytest.mark.parametrize(("length", "status"), [("5", 200), ("-5", 400), ("1e3", 400), ("9" * 40, 400)])
async def test_a_declared_length_is_a_number_within_the_limit(length: str, status: int) -> None:
    guard = Guard(_fine, "127.0.0.1")
    assert await _through(guard, [(b"host", b"localhost"), (b"content-length", length.encode())]) == status
    too_long = str(HTTP_BODY_BYTES + 1).encode()
    assert await _through(guard, [(b"host", b"localhost"), (b"content-length", too_long)]) == 413
