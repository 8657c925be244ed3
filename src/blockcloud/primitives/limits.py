"""Every limit of the system, by name and unit, in one place.

A limit is checked before memory is allocated for what it limits. Consensus parameters that a genesis file may change
(levels, windows, committee) live in the genesis; what stands here is the same at every node of a protocol version.
"""

from typing import Final

# Ledger
TRANSACTION_BYTES: Final = 64 * 1024
TRANSACTION_OPERATIONS: Final = 100
ACCOUNT_KEYS: Final = 16
# Who changes the keys of an account signs with the old ones and the new ones.
TRANSACTION_SIGNATURES: Final = 2 * ACCOUNT_KEYS
BLOCK_PAYLOAD_BYTES: Final = 1024 * 1024
BLOCK_OPERATIONS: Final = 4_000
BLOCK_BYTES: Final = BLOCK_PAYLOAD_BYTES + 256 * 1024
BLOCK_STATEMENTS: Final = 64
COMMITTEE_MEMBERS: Final = 100
UNREFERENCED_BLOCKS_PER_SLOT: Final = 2
CLOCK_AHEAD_MS: Final = 500

# Suspended blocks and fetching
SUSPENDED_BLOCKS: Final = 4_096
HELD_BACK_BLOCKS: Final = 1_024
FETCH_REFERENCES: Final = 64
FETCH_RETRY_MS: Final = 500
COMMIT_RANGE: Final = 64

# Node
FRAME_BYTES: Final = 8 * 1024 * 1024
PEER_QUEUE_BYTES: Final = 16 * 1024 * 1024
MEMPOOL_TRANSACTIONS: Final = 20_000
MEMPOOL_BYTES: Final = 16 * 1024 * 1024
APPLY_QUEUE_COMMITS: Final = 256
HTTP_BODY_BYTES: Final = 8 * 1024 * 1024
HTTP_CONNECTIONS: Final = 512
SUBMISSION_TRANSACTIONS: Final = 1_000
WAITING_SUBMISSIONS: Final = 2_048
EVENT_SUBSCRIBERS: Final = 64
HANDSHAKE_SECONDS: Final = 5

# State
STATE_KEY_BYTES: Final = 512
STATE_VALUE_BYTES: Final = 64 * 1024
PROOF_BYTES: Final = 16 * 1024

# Names and the service plane
NAME_BYTES: Final = 253
LABEL_BYTES: Final = 63
INSTANCE_KEYS: Final = 64
DELEGATIONS: Final = 64
SERVICE_FILE_BYTES: Final = 16 * 1024
ADDRESS_RECORD_BYTES: Final = 1_024
RECORD_ENDPOINTS: Final = 8
LEASE_SECONDS: Final = 3_600
CLOCK_SKEW_SECONDS: Final = 30
RESOLUTION_AGE_SECONDS: Final = 60
MOVED_ADDRESSES: Final = 4
SESSION_BUFFER_BYTES: Final = 1024 * 1024
SESSION_FRAME_BYTES: Final = 64 * 1024
SESSION_DATAGRAM_BYTES: Final = 1_200  # with QUIC's own bytes it fits the smallest IPv6 packet
HALF_OPEN_HANDSHAKES: Final = 1_024
SESSIONS: Final = 8_192
