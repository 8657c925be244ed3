"""The IoT edge node: takes readings in, keeps newest values and windows of them, stores and forwards. DESIGN 5.4.

`senml` and `plain` read what devices send, `sources` sees to it that nothing counts twice, `series` aggregates, `core`
puts these together without I/O. `outbox` makes it durable, `intake` acknowledges only what is; `mqtt`, `http` and
`coap` are the inputs, `serving` and `following` the two ends of a reader's session.
"""
