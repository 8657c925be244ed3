"""CloudPoS, phases 1 and 2: what stake is, who tests it, and what the tests count for (DESIGN section 3.4).

Everything here is a pure function of what stands on the chain. The tests themselves, with disks and clocks, are in
`node/resources`.
"""
