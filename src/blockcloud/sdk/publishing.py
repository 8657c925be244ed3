"""Before an instance can serve under a name, the ledger must say so: the owner signs the instance's key once.

`authorise_instance` brings the ledger to that state and does nothing where it is there already, so a restarted replica
needs no owner key: the key is loaded only when something has to be signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.posted_price import PRICE_TERM, PostedPrice
from blockcloud.routing.service_file import (
    build_service_file,
    encode_service_file,
    parse_service_file,
    service_file_hash,
)
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.errors import NotFound
from blockcloud.sdk.resolver import ChainResolver
from blockcloud.service_access.resolution import UnknownName
from blockcloud.service_chain.operations import AddInstance, Operation, UpdateName


async def authorise_instance(
    client: AsyncClient,
    name: str,
    instance: bytes,
    load_owner: Callable[[], SigningKey],
    *,
    title: str,
    ports: tuple[int, ...] = (),
    price: PostedPrice | None = None,
) -> bytes:
    """Make sure that `name` lists the key `instance` and binds a service file that is stored; the file's hash.

    `title` and `ports` (where programs expect the service) go into the file if the name has none yet. `price` goes into
    the one that it has, too, if that posts another one: then the owner's key signs again.
    Returns once a certified checkpoint proves it, so that whoever resolves the name from now on finds the instance.
    Raises UnknownName if nobody registered the name, and what the ledger rejects with.
    """
    try:
        view = await client.name_view(name)  # unproven: a lie here only makes the ledger reject what we sign
    except NotFound:
        raise UnknownName("register the name first: blockcloud name register", name=name) from None
    terms: dict[str, object] = {"bc:ports": list(ports)} if ports else {}
    if price is not None:
        terms[PRICE_TERM] = price.term()
    file = build_service_file(name, title, terms=terms)
    own_hash = service_file_hash(file)
    bound = bytes.fromhex(view["service_file_hash"])
    operations: list[Operation] = []
    if not bound:
        operations.append(UpdateName(name, own_hash))
    if instance.hex() not in view["instance_keys"]:
        operations.append(AddInstance(name, instance))
    height = int(view["changed_height"])
    for operation in operations:  # one after the other: a name changes at most once in a commit
        height = (await client.transact(load_owner(), operation)).height
    if (bound or own_hash) == own_hash:
        await client.put_service_file(file)
    await client.name(name, at_least_height=height)
    if price is not None and bound not in (b"", own_hash):
        return await post_price(client, name, load_owner, price)
    return bound or own_hash


async def post_price(client: AsyncClient, name: str, load_owner: Callable[[], SigningKey], price: PostedPrice) -> bytes:
    """Make the service file of `name`, which it must have, post `price`; its hash. The rest of the file stays.

    Raises as `list_content`.
    """
    return await _set_term(client, name, load_owner, PRICE_TERM, price.term(), absent=None)


async def list_content(client: AsyncClient, name: str, key: SigningKey, digests: Mapping[str, bytes]) -> bytes:
    """Make the service file of `name` fix the content at these paths (SHA-256 by path), and nothing else; its hash.

    The rest of the file stays. `key` is the owner's. Raises as `parse_service_file`, UnknownName, and what the ledger
    rejects with.
    """
    content = {path: digest.hex() for path, digest in sorted(digests.items())}
    return await _set_term(client, name, lambda: key, "bc:content", content, absent={})


async def _set_term(
    client: AsyncClient, name: str, load_owner: Callable[[], SigningKey], term: str, value: object, *, absent: object
) -> bytes:
    """Bind a service file that says `value` for `term`, where the name's says another (`absent`: says nothing)."""
    resolver = ChainResolver(client)
    found = await resolver.proven(name)
    if found.service_file_hash:
        document = await resolver.service_file(found)
    else:
        document = parse_service_file(build_service_file(name, name))
    if document.get(term, absent) == value and found.service_file_hash:
        return found.service_file_hash
    sequence = document.get("bc:seq", 0) + 1
    document |= {term: value, "bc:seq": sequence, "version": {"instance": str(sequence)}}
    if found.service_file_hash:
        document["bc:prev"] = found.service_file_hash.hex()
    file = encode_service_file(document)
    receipt = await client.update_name(load_owner(), name, service_file_hash(file))
    await client.put_service_file(file)
    await client.name(name, at_least_height=receipt.height)
    return service_file_hash(file)
