"""A relay: where peers meet that cannot reach each other, because both are behind NAT. It sees only ciphertext.

    instance  --- control connection: TLS, handshake, "relay/v1" --->  relay          kept; PING and PONG
    dialler   --- DIAL(instance's key) ----------------------------->  relay
    instance  <-- INVITE(token) on the control connection -----------  relay
    instance  --- MEET(token) on a new connection ------------------>  relay
    dialler   <=========== the same bytes, both ways ==============>   instance

What runs over the spliced connection is the ordinary link: TLS, whose server is the instance, then HELLO or RESUME. So
nothing about sessions is different through a relay, and a relay can delay, cut, and count bytes, but neither read nor
change them, nor pass itself off as the instance. The relay is a service with a name: who registers resolves the name,
and believes only who proves one of the keys that the ledger lists for it. Who dials needs no such proof, because the
link above proves the instance.

`messages` (the wire), `buckets` and `rendezvous` (who waits for whom, what is too much) are sans-IO; `server` and
`pipe` are the relay's asyncio side, `dialling` and `registration` that of its users. DESIGN section 5.2, ADR 24.
"""
