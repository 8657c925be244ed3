"""Limits and prices of contracts. All of them are consensus: the same at every node of a protocol version.

One unit of fuel is about a nanosecond of one core: WebAssembly instructions cost what the engine says (mostly 1), host
functions what stands here, a little above what they were measured to cost.
"""

from __future__ import annotations

from typing import Final

# The engine's name and version: fuel and results are what this one says. `genesis.ContractParameters` has it too.
ENGINE: Final = "wasmtime-50.0.1"

# A module
CODE_BYTES: Final = 24 * 1024
MEMORY_PAGES: Final = 16  # of 64 KiB
TABLE_ELEMENTS: Final = 1_024
TYPES: Final = 256
FUNCTIONS: Final = 2_048
GLOBALS: Final = 256
EXPORTS: Final = 128
EXPORT_NAME_BYTES: Final = 64
FRAME_SLOTS: Final = 1_024  # parameters, locals and operands of one function
# What makes compiling slow beyond its bytes: blocks in blocks, blocks where many locals live, wrapped calls.
BLOCK_DEPTH: Final = 256
COMPLEXITY: Final = 98_304  # sum over all functions of slots, overhead included, times blocks
REWRITTEN_BYTES: Final = 64 * 1024

# Calls of functions inside a module: so many, and fewer where frames are large, so that the machine's stack, which
# differs between machines, is never what ends a call.
CALL_FRAMES: Final = 256
STACK_SLOTS: Final = 16_384
FRAME_OVERHEAD_SLOTS: Final = 32
STACK_BYTES: Final = 512 * 1024  # twice 16 bytes for each slot

# What a call may carry and touch
METHOD_BYTES: Final = 32
ARGUMENT_BYTES: Final = 8 * 1024
OUTPUT_BYTES: Final = 1_024
REASON_BYTES: Final = 128
SALT_BYTES: Final = 32
KEY_BYTES: Final = 128
VALUE_BYTES: Final = 8 * 1024
MESSAGE_BYTES: Final = 8 * 1024
TOPIC_BYTES: Final = 32
EVENT_BYTES: Final = 256
TRANSACTION_EVENTS: Final = 16
CALL_DEPTH: Final = 4  # contracts that call contracts

# Fuel
TRANSACTION_FUEL: Final = 10_000_000
FUEL_PER_UNIT: Final = 5_000  # of transaction weight
FUEL_PER_SLOT: Final = 100_000  # a block counts so much fuel as one operation

ENTER_FUEL: Final = 100_000  # a fresh instance
ENTER_BYTE_FUEL: Final = 2  # of code; the module may have to be compiled again
DEPLOY_FUEL: Final = 2_000_000  # checked, rewritten, compiled
DEPLOY_BYTE_FUEL: Final = 300  # of code
HOST_FUEL: Final = 5_000  # any host function
BYTE_FUEL: Final = 10  # copied in or out
READ_FUEL: Final = 15_000  # of a state key
WRITE_FUEL: Final = 25_000
WRITE_BYTE_FUEL: Final = 40
TRANSFER_FUEL: Final = 40_000
EMIT_FUEL: Final = 10_000
VERIFY_FUEL: Final = 80_000

# Storage
CELL_OVERHEAD_BYTES: Final = 64  # what a cell costs the state beyond key and value
CODE_DEPOSIT_FACTOR: Final = 8  # a byte of code is as much as so many stored ones: every node keeps it compiled

# A node's memory of compiled modules
# Large, because whoever pushes modules out of it makes calls dear; native code has ten times the bytes.
COMPILED_MODULES: Final = 4_096
COMPILED_CODE_BYTES: Final = 16 * 1024 * 1024
