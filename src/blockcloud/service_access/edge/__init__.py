"""Edge nodes: services served from nearby. DESIGN 5.4.

The private edge node is for HTTP: signed responses, a cache that need not be trusted, and whoever fetches through it.
`http_message`, `http_signature`, `cache_control` and `cache` are sans-IO; `streams`, `exchange`, `signing_proxy` and
`caching_node` carry out over sessions and sockets what these decide. The IoT edge node is the package `feed`.
"""
