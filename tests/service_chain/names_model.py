"""What names and namespaces must do, written for being obvious: dictionaries, whole copies, and every rule spelled out
again from DESIGN and the decision records. Nothing here comes from the code that is tested.

An action is a tuple: what is done, then its details. `Model.transaction` tells the code of the receipt.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

PREORDER_MIN, PREORDER_MAX = 2, 6
LIFETIME, GRACE = 14, 4
NAMESPACE_PRICE = 1_000  # of a long label
READY_WITHIN = 8
PRICE_LIMIT = 50_000  # that no rule may exceed
LIFETIME_LIMIT = 40
DEPOSIT = 10_000
KEYS_LIMIT = 64
LABELS_LIMIT = 8

Action = tuple[Any, ...]
Rule = dict[str, Any]


class Refused(Exception):
    """The code that the receipt must have."""


def price(rule: Rule, label: str) -> int:
    """Micro-BLOC for a label under a rule."""
    exponent = rule["exponents"][15] if len(label) > 16 else rule["exponents"][len(label) - 1]
    full = rule["coefficient"]
    for _ in range(exponent):
        full *= rule["base"]
    discounts = [1]
    if set(label).isdisjoint("aeiouy"):
        discounts.append(rule["no_vowels"])
    if set(label) & set("0123456789-"):
        discounts.append(rule["other_signs"])
    return int(full // max(discounts))


class Model:
    """The ledger of names. `balances` follow what actions cost; fees are taken by who calls."""

    def __init__(self, balances: dict[bytes, int]) -> None:
        self.height = 0
        self.balances = balances
        self.burned = 0
        self.preorders: dict[tuple[bytes, str, str, bytes], int] = {}
        self.names: dict[str, dict[str, Any]] = {}
        self.spaces: dict[str, dict[str, Any]] = {}

    def transaction(self, user: bytes, actions: Sequence[Action]) -> str:
        """Do all of `actions` or nothing."""
        before = copy.deepcopy((self.balances, self.burned, self.preorders, self.names, self.spaces))
        try:
            for what, *details in actions:
                getattr(self, what)(user, *details)
        except Refused as refusal:
            self.balances, self.burned, self.preorders, self.names, self.spaces = before
            return str(refusal)
        return "ok"

    # What a name or a namespace is at this height.

    def life(self, name: str) -> str:
        entry = self.names.get(name)
        if entry is None:
            return "free"
        if entry["given_up"]:
            return "revoked"
        if self.height < entry["expires"]:
            return "active"
        return "grace" if self.height < entry["expires"] + entry["grace"] else "expired"

    def is_held(self, name: str) -> bool:
        return self.life(name) in ("active", "grace")

    def space(self, label: str) -> str:
        entry = self.spaces.get(label)
        if entry is None:
            return "none"
        if entry["ready"]:
            return "ready"
        return "importing" if self.height < entry["revealed"] + READY_WITHIN else "lapsed"

    def terms(self, name: str, since: int | None = None) -> tuple[int, int, int]:
        """Price, lifetime, grace, to renew it if it was registered at `since`."""
        labels = name.split(".")
        if len(labels) == 2 and self.space(labels[1]) in ("importing", "ready"):
            entry = self.spaces[labels[1]]
            if since is not None and since < entry["revealed"]:
                return 0, LIFETIME, GRACE
            return price(entry["rule"], labels[0]), entry["lifetime"], entry["grace"]
        return 0, LIFETIME, GRACE

    # Preorders.

    def preorder(self, user: bytes, kind: str, text: str, salt: bytes) -> None:
        made = self.preorders.get((user, kind, text, salt))
        if made is not None and self.height - made <= PREORDER_MAX:
            raise Refused("preorder_exists")
        self.preorders[user, kind, text, salt] = self.height

    def use_preorder(self, user: bytes, kind: str, text: str, salt: bytes) -> None:
        made = self.preorders.get((user, kind, text, salt))
        if made is None:
            raise Refused("preorder_missing")
        if self.height - made < PREORDER_MIN:
            raise Refused("preorder_too_young")
        if self.height - made > PREORDER_MAX:
            raise Refused("preorder_too_old")
        del self.preorders[user, kind, text, salt]

    # Names.

    def register(self, user: bytes, name: str, salt: bytes, file: bytes, keys: tuple[bytes, ...], limit: int) -> None:
        self.can_be_new(name)
        self.is_left_to(user, name)
        self.use_preorder(user, "name", name, salt)
        cost, lifetime, grace = self.terms(name)
        self.pay_price(user, cost, limit)
        self.make(user, name, user, file, keys, lifetime, grace)

    def can_be_new(self, name: str) -> None:
        if self.is_held(name):
            raise Refused("name_taken")
        if name in self.names and self.names[name]["changed"] == self.height:
            raise Refused("name_changed_already")

    def is_left_to(self, user: bytes, name: str) -> None:
        labels = name.split(".")
        if len(labels) > LABELS_LIMIT:
            raise Refused("name_too_deep")
        above = [".".join(labels[cut:]) for cut in range(1, len(labels))]
        held = [each for each in above if self.is_held(each)]
        if held:
            if self.names[held[0]]["owner"] != user:
                raise Refused("not_parent_owner")
            return
        space = self.space(labels[-1])
        if space in ("importing", "ready"):
            if len(labels) == 1:
                raise Refused("label_is_namespace")
            if len(labels) > 2:
                raise Refused("parent_not_held")
            if space == "importing":
                raise Refused("namespace_not_ready")

    def delegate(
        self, user: bytes, parent: str, entries: tuple[tuple[str, bytes, bytes, tuple[bytes, ...]], ...]
    ) -> None:
        lifetime, grace = LIFETIME, GRACE
        space = self.space(parent)
        if space == "ready":
            raise Refused("namespace_is_ready")
        if space == "importing":
            if self.spaces[parent]["owner"] != user:
                raise Refused("not_namespace_owner")
            lifetime, grace = self.spaces[parent]["lifetime"], self.spaces[parent]["grace"]
        else:
            refusals = {"free": "unknown_name", "expired": "name_expired", "revoked": "name_revoked"}
            if not self.is_held(parent):
                raise Refused(refusals[self.life(parent)])
            if self.names[parent]["owner"] != user:
                raise Refused("not_name_owner")
        for label, owner, file, keys in entries:
            name = f"{label}.{parent}"
            if name.count(".") + 1 > LABELS_LIMIT:
                raise Refused("name_too_deep")
            self.can_be_new(name)
            self.make(user, name, owner, file, keys, lifetime, grace)

    def make(
        self, payer: bytes, name: str, owner: bytes, file: bytes, keys: tuple[bytes, ...], lifetime: int, grace: int
    ) -> None:
        old = self.names.get(name)
        if old is not None:
            self.give(old["owner"], old["deposit"])
        self.take(payer, DEPOSIT)
        self.names[name] = {
            "owner": owner,
            "file": file,
            "keys": list(keys),
            "registered": self.height,
            "expires": self.height + lifetime,
            "grace": grace,
            "changed": self.height,
            "previous": old["changed"] if old is not None else 0,
            "given_up": False,
            "deposit": DEPOSIT,
        }

    def change(self, user: bytes, name: str, in_grace: bool = False) -> dict[str, Any]:
        """The name, if the user may change it now."""
        life = self.life(name)
        if life == "free":
            raise Refused("unknown_name")
        if life == "revoked":
            raise Refused("name_revoked")
        if life == "expired" or (life == "grace" and not in_grace):
            raise Refused("name_expired")
        entry = self.names[name]
        if entry["changed"] == self.height:
            raise Refused("name_changed_already")
        if entry["owner"] != user:
            raise Refused("not_name_owner")
        return entry

    def note(self, entry: dict[str, Any]) -> None:
        entry["previous"], entry["changed"] = entry["changed"], self.height

    def update(self, user: bytes, name: str, file: bytes) -> None:
        entry = self.change(user, name)
        entry["file"] = file
        self.note(entry)

    def add_key(self, user: bytes, name: str, key: bytes) -> None:
        entry = self.change(user, name)
        if key in entry["keys"]:
            raise Refused("instance_exists")
        if len(entry["keys"]) == KEYS_LIMIT:
            raise Refused("too_many_instances")
        entry["keys"].append(key)
        self.note(entry)

    def remove_key(self, user: bytes, name: str, key: bytes) -> None:
        entry = self.change(user, name)
        if key not in entry["keys"]:
            raise Refused("unknown_instance")
        entry["keys"].remove(key)
        self.note(entry)

    def transfer(self, user: bytes, name: str, to: bytes) -> None:
        entry = self.change(user, name)
        entry["owner"], entry["keys"] = to, []
        self.note(entry)

    def renew(self, user: bytes, name: str, limit: int) -> None:
        entry = self.change(user, name, in_grace=True)
        cost, lifetime, grace = self.terms(name, entry["registered"])
        self.pay_price(user, cost, limit)
        entry["expires"], entry["grace"] = self.height + lifetime, grace
        self.note(entry)

    def revoke(self, user: bytes, name: str) -> None:
        entry = self.change(user, name)
        self.give(user, entry["deposit"])
        entry["given_up"], entry["file"], entry["keys"], entry["deposit"] = True, b"", [], 0
        self.note(entry)

    # Namespaces.

    def reveal(self, user: bytes, label: str, salt: bytes, rule: Rule, lifetime: int, grace: int) -> None:
        if self.space(label) in ("importing", "ready"):
            raise Refused("namespace_taken")
        if self.is_held(label):
            raise Refused("label_is_name")
        dearest = max(rule["coefficient"] * rule["base"] ** exponent for exponent in rule["exponents"])
        if dearest > PRICE_LIMIT or lifetime > LIFETIME_LIMIT or grace > LIFETIME_LIMIT:
            raise Refused("namespace_rule_out_of_bounds")
        self.use_preorder(user, "namespace", label, salt)
        old = self.spaces.get(label)
        if old is not None:
            self.give(old["owner"], old["deposit"])
        times = 1_000 if len(label) < 2 else 100 if len(label) < 4 else 10 if len(label) < 8 else 1
        self.take(user, NAMESPACE_PRICE * times + DEPOSIT)
        self.burned += NAMESPACE_PRICE * times
        self.spaces[label] = {
            "owner": user,
            "rule": rule,
            "lifetime": lifetime,
            "grace": grace,
            "revealed": self.height,
            "ready": 0,
            "deposit": DEPOSIT,
        }

    def ready(self, user: bytes, label: str) -> None:
        space = self.space(label)
        if space != "importing":
            refusals = {"none": "unknown_namespace", "ready": "namespace_is_ready", "lapsed": "namespace_lapsed"}
            raise Refused(refusals[space])
        if self.spaces[label]["owner"] != user:
            raise Refused("not_namespace_owner")
        self.spaces[label]["ready"] = self.height

    # Money.

    def pay_price(self, user: bytes, cost: int, limit: int) -> None:
        if cost > limit:
            raise Refused("price_above_limit")
        self.take(user, cost)
        self.burned += cost

    def take(self, user: bytes, amount: int) -> None:
        if self.balances[user] < amount:
            raise Refused("insufficient_balance")
        self.balances[user] -= amount

    def give(self, user: bytes, amount: int) -> None:
        self.balances[user] += amount
