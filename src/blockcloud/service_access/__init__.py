"""Layer 4: the service access layer. Names become sessions that outlive their links.

The service table, the handshake, the frames and the session core are sans-IO; `links`, `endpoint`, `connector`,
`publish`, `forward`, `announce` and `control` are their asyncio adaptors. The idea is Serval's (NSDI 2012), in user
space and with authenticated flows; see DESIGN section 5.2 and `reference/dataplane.md`.
"""
