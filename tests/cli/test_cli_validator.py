"""`blockcloud node init` and `blockcloud validator`: a newcomer's home, and its bond from the first to the last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blockcloud.node.config import NodeConfig, read_config
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.node.membership import read_onion
from blockcloud.node.storage import RocksStore
from blockcloud.node.validator import Validator
from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.home import read_genesis
from blockcloud.service_chain.operations import Bond, StakeResources
from blockcloud.service_chain.records import Candidate
from blockcloud.transaction_chain.cloudpos.stake import Resources, StakeClaim
from tests.cli.cli_world import Node, Result, command, read_view, texts
from tests.node.cluster import BOND, KEYS, USERS, until

LINK, API_URL = "127.0.0.1:8901", "http://127.0.0.1:8900"


def init(node: Node, folder: Path, *more: str) -> Result:
    genesis = str(node.home / "genesis.json")
    return command("node", "init", "--genesis", genesis, "--home", str(folder), "--json", *more)


def candidate_of(node: Node, address: str) -> Candidate:
    found = node.api.validator.chain.candidate(parse_address(address))
    assert found is not None
    return found


def funded(node: Node, folder: Path, amount: str) -> tuple[str, tuple[str, ...]]:
    """A new node's address with money, and the options by which a command acts for it at the running node."""
    address = init(node, folder).report["address"]
    node.ok("account", "transfer", "--to", address, "--amount", amount)
    return address, ("--home", str(folder), "--api", node.url, "--json")


def certified(node: Node) -> None:
    """Wait until what is committed now is proven."""
    validator = node.api.validator
    height = validator.chain.applied_height

    async def wait() -> None:
        await until(lambda: validator.certificate is not None and validator.certificate.statement.height >= height)

    node.call(wait())


def test_a_new_node_has_a_home_of_its_own(node: Node, tmp_path: Path) -> None:
    folder = tmp_path / "a node"
    made = init(node, folder, "--base-port", "8900")
    assert made.code == 0, made.err
    report = made.report
    assert report.keys() == {"address", "home", "key_file", "api", "link", "network", "chain"}
    assert (report["api"], report["link"]) == ("http://127.0.0.1:8900", "127.0.0.1:8901")
    assert report["chain"] == node.api.net.genesis.chain_id().hex()
    config = read_config(folder)
    assert config == NodeConfig(home=folder, api_port=8900, link_port=8901)
    assert read_genesis(config.genesis_path).chain_id() == node.api.net.genesis.chain_id()
    assert report["key_file"] == str(config.key_path)
    assert SigningKey.load(config.key_path).public == parse_address(report["address"])
    assert read_onion(config.onion_path, 10) is not None
    for path, mode in ((config.key_path, 0o600), (config.onion_path, 0o600), (folder, 0o700)):
        assert path.stat().st_mode & 0o777 == mode
    for word in ("blockcloud node run", "blockcloud validator bond"):
        assert word in made.err, "it says what comes next"
    assert "PRIVATE" not in made.out + made.err
    store = RocksStore(config.data_path)
    try:
        tables = LedgerTables(store, node.api.net.genesis)
        assert not tables.may_sign(parse_address(report["address"])), "a newcomer's node key signs no blocks"
    finally:
        store.close()


def test_a_new_node_follows_the_network(node: Node, tmp_path: Path) -> None:
    init(node, tmp_path / "mine")
    config = replace(read_config(tmp_path / "mine"), link_host=node.api.host, link_port=9_060)
    height = node.api.validator.chain.applied_height

    async def follow() -> tuple[Any, ...]:
        follower = Validator(config, read_genesis(config.genesis_path), SigningKey.load(config.key_path))
        try:
            await follower.start()
            await until(lambda: follower.chain.applied_height > height and follower.status()["mode"] == "observing")
            return follower.own, follower.core.proposing
        finally:
            await follower.stop()
            await until(lambda: not node.api.validator.network.connected())

    assert node.call(follow()) == (None, False)
    doctor = node.command("doctor", "--json")
    checks = {check["check"]: check["ok"] for check in doctor.report["checks"]}
    assert checks["peers"], "a node that only followed may leave again"


def test_a_home_is_made_once_and_only_for_a_good_genesis(node: Node, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert init(node, folder).code == 0
    key = (folder / "keys" / "validator.pem").read_bytes()
    again = init(node, folder)
    assert (again.code, again.out) == (1, "")
    assert "holds something already" in again.err
    assert (folder / "keys" / "validator.pem").read_bytes() == key
    other = tmp_path / "other"
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    for genesis in ("bad.json", "missing.json"):
        refused = command("node", "init", "--genesis", str(tmp_path / genesis), "--home", str(other))
        assert (refused.code, refused.out) == (1, ""), refused.err
        assert "[bad_configuration]" in refused.err
    for port in ("0", "65535", "70000"):
        assert "[bad_configuration]" in init(node, other, "--base-port", port).err
    assert init(node, other, "--base-port", "many").code == 2
    assert command("node", "init", "--home", str(other)).code == 2
    assert not other.exists(), "nothing is left behind"
    plain = tmp_path / "plain"
    plain.write_text("not a folder", encoding="utf-8")
    assert "cannot make the folder" in init(node, plain).err


def test_a_bond_from_the_first_to_the_last(node: Node, tmp_path: Path) -> None:
    address, here = funded(node, tmp_path / "mine", "2500")
    unasked = command("validator", "bond", "1000", *here)
    assert (unasked.code, unasked.out) == (4, "")
    assert "[address_missing]" in unasked.err
    first = command("validator", "bond", "1000.5", "--link", LINK, "--api-url", API_URL, *here)
    assert first.code == 0, first.err
    assert (first.report["status"], first.report["code"], first.report["address"]) == ("committed", "ok", address)
    candidate = candidate_of(node, address)
    assert (candidate.bond, candidate.link_address, candidate.api_url) == (BOND + 500_000, LINK, API_URL)
    onion = read_onion(tmp_path / "mine" / "keys" / "onion.pem", node.api.net.genesis.staking.onion_length)
    assert onion is not None
    assert candidate.onion == onion.tip
    more = command("validator", "bond", "999.5", *here)
    assert more.code == 0, more.err
    candidate = candidate_of(node, address)
    assert (candidate.bond, candidate.link_address, candidate.onion) == (2 * BOND, LINK, onion.tip)
    for amount, code in (("2000.000001", "insufficient_bond"), ("1500", "bond_below_minimum")):
        refused = command("validator", "unbond", amount, *here)
        assert (refused.code, refused.out) == (4, "")
        assert f"[{code}]" in refused.err
    assert command("validator", "unbond", "1000", *here).report["code"] == "ok"
    assert command("validator", "unbond", "1000", *here).report["code"] == "ok"
    candidate = candidate_of(node, address)
    assert (candidate.bond, sum(amount for _, amount in candidate.unbonding)) == (0, 2 * BOND)
    early = command("validator", "withdraw", *here)
    assert early.code == 4
    assert "[nothing_to_withdraw]" in early.err
    free = command("validator", "unjail", *here)
    assert free.code == 4
    assert "[not_jailed]" in free.err


def test_a_validator_is_shown_in_both_views(node: Node, tmp_path: Path) -> None:
    certified(node)
    address = format_address(KEYS[0].public)
    report = node.ok("validator", "show", address)
    assert (report["bond"], report["member"], report["jailed"]) == ("1000", 0, False)
    assert report["era"] == node.api.validator.era
    assert (report["resource_weight_ppm"], report["stake"]) == (1_000_000, None)
    assert report["proven"]["bond"] == "1000"
    view = node.command("validator", "show", address)
    found = read_view(view.out.splitlines(), report)
    # The ledger goes on between the two calls: what moves with it is only there.
    assert {**found, "proven": 0, "ready": 0} == {**texts(report), "proven": 0, "ready": 0}
    assert found["proven"].keys() == report["proven"].keys()
    api = node.call(node.api.http.get(f"/v1/candidates/{address}")).json()
    assert {key: report[key] for key in api if key != "ready"} == {key: api[key] for key in api if key != "ready"}
    key = tmp_path / "key.pem"
    KEYS[0].save(key)
    assert node.ok("validator", "show", "--key", str(key))["address"] == address


def test_resources_that_a_validator_has_put_up_are_shown(node: Node, tmp_path: Path) -> None:
    address, here = funded(node, tmp_path / "mine", "1100")
    key = SigningKey.load(tmp_path / "mine" / "keys" / "validator.pem")
    stake = StakeResources(StakeClaim(Resources(300, 65_536, 1_000), 1, b"p" * 32), "127.0.0.1:9")
    (receipt,) = node.call(node.api.committed(node.api.net.signed(key, 0, Bond(BOND, LINK, API_URL, b""), stake)))
    assert receipt["code"] == "ok"
    certified(node)
    report = command("validator", "show", *here).report
    assert (report["address"], report["member"], report["resource_weight_ppm"]) == (address, None, None)
    assert report["stake"]["claim"]["storage_bytes"] == 65_536
    assert report["stake"]["confirmed"]["storage_bytes"] == 0
    lines = [line.split() for line in node.command("validator", "show", address).out.splitlines()]
    assert ["storage_bytes", "65536"] in lines
    assert ["storage_bytes", "0"] in lines


def test_more_bond_does_not_begin_the_onion_anew(node: Node, tmp_path: Path) -> None:
    """What it revealed of its onion is known to all: the same layers again would be no surprise to anybody."""
    address, here = funded(node, tmp_path / "mine", "2100")
    key = SigningKey.load(tmp_path / "mine" / "keys" / "validator.pem")
    moved_on = b"t" * 32  # not the tip in the key folder, as after reveals
    raw = node.api.net.signed(key, 0, Bond(BOND, LINK, API_URL, moved_on))
    (receipt,) = node.call(node.api.committed(raw))
    assert receipt["code"] == "ok"
    certified(node)
    assert command("validator", "bond", "1000", *here).code == 0
    candidate = candidate_of(node, address)
    assert (candidate.bond, candidate.onion, candidate.next_onion) == (2 * BOND, moved_on, b"")


def test_the_key_that_signs_is_the_one_that_was_named(node: Node, tmp_path: Path) -> None:
    """In a node's home its node key, with --key another one; a client's home has its own."""
    address, here = funded(node, tmp_path / "mine", "1200")
    key = tmp_path / "key.pem"
    USERS[5].save(key)
    named = command("validator", "bond", "1000", "--link", LINK, "--api-url", API_URL, "--key", str(key), *here)
    assert named.report["address"] == format_address(USERS[5].public)
    assert node.api.validator.chain.candidate(parse_address(address)) is None
    assert candidate_of(node, named.report["address"]).onion == b"", "no onion lies beside that key"
    own = node.command("validator", "show")
    assert own.code == 1
    assert "[not_found]" in own.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["bond", "much", "--link", LINK, "--api-url", API_URL], 2, "[invalid_amount]"),
        (["bond", "1000", "--link", "nowhere", "--api-url", API_URL], 2, "host:port"),
        (["bond", "1000", "--link", LINK, "--api-url", "ftp://x"], 1, "[malformed]"),
        (["bond", "9999999999", "--link", LINK, "--api-url", API_URL], 4, "[insufficient_balance]"),
        (["bond"], 2, "amount"),
        (["unbond", "1"], 4, "[not_a_candidate]"),
        (["unbond", "-1"], 2, "No such option"),
        (["withdraw"], 4, "[not_a_candidate]"),
        (["unjail"], 4, "[not_a_candidate]"),
        (["show", "bloc1nobody"], 2, "[invalid_address]"),
        (["show", format_address(b"n" * 32)], 1, "[not_found]"),
        (["show", "--api", "http://127.0.0.1:9"], 3, "[unreachable]"),
        (["show", "--key", "/nowhere.pem"], 1, "[bad_configuration]"),
    ],
)
def test_failures_have_an_exit_code_and_a_reason(node: Node, arguments: list[str], code: int, said: str) -> None:
    result = node.command("validator", *arguments)
    assert result.code == code, result.err
    assert said in result.err
    assert result.out == ""
    assert "Traceback" not in result.err
