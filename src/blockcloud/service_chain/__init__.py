"""Layer 2, control plane: the state machine over the ordered payloads of layer 1. Pure functions over a store.

Transactions carry operations on accounts, lanes and names; `machine.ServiceChain` executes commits of them against
the authenticated state (`state`). Every operation is metadata inside a layer-1 payload: layer 1 would order it just the
same if it were noise. DESIGN section 4. To follow a rule: `operations` (what can be asked) -> `execution` (who may, and
who pays) -> `accounts`, `lanes`, `names`, `validators` (what it does) -> `rejections` (why not).
"""
