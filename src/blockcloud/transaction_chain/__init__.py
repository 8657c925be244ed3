"""Layer 1, control plane: the CoDAG ledger and its consensus. Sans-IO: events and `now` go in, duties come out.

It orders payloads for a service machine that it does not know (`machine.ServiceMachine`). DESIGN section 3.
"""
