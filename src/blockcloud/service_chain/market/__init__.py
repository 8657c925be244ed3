"""The auction of layer 2: who trades with whom at which price, as a pure engine (DESIGN 6.1).

A market is one kind of thing (service class, unit, region, latency tier, window); what makes the key of a market is
the ledger's business. Here is what happens inside of one: `orders` and `refusals` say what may be ordered, `ratchet`
is the default mechanism, `sealed` the rounds of commit and reveal for `mcafee` and for `m1`, the rule of the original
paper. Everything is integers and follows from the orders, their order of inclusion and the seed of the round.
"""
