"""Faces for programs that know nothing of names: SOCKS5, an HTTP proxy, and DNS with loopback addresses. DESIGN 5.3.

Whatever a program says at one of them comes down to a service name, and each of its connections is one session
(`splice`), so it lives through moves of either side without knowing.
"""
