"""The auction of layer 2: who trades with whom at which price (DESIGN 6.1).

A market is one kind of thing (service class, unit, region, latency tier, window). What happens inside of one is a pure
engine: `orders` and `refusals` say what may be ordered, `ratchet` is the default mechanism, `sealed` the rounds of
commit and reveal for `mcafee` and for `m1`, the rule of the original paper. Everything is integers and follows from the
orders, their order of inclusion and the seed of the round. On the ledger, `rules` says what an account may do in a
market, and `rounds` what a round does to the state; only these know accounts, names and agreements.
"""
