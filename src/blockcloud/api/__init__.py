"""The HTTP face of a node: `/v1/...`, problem+json errors, server-sent events. UX.md and `reference/parameters.md`."""
