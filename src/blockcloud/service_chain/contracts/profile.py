"""Which modules are let in, and what is done to them so that they end in the same way everywhere.

The profile is the first version of WebAssembly with integers only, and sign extension: no floats (their NaNs differ
between machines), no vectors, threads, bulk memory (its instructions cost a fuel of one whatever they move), no
references, tail calls, exceptions or second memories. Only known host functions may be imported, and nothing runs
before a method is called. The parser here reads every byte of a module before the engine sees one: unknown input gets
a typed refusal.

How deep functions may call each other would depend on the machine, because native frames differ. So a counter is
written into the module: around each call of a function of its own it counts one up and down again, and traps at a
limit that follows from the largest frame of the module (the stack height metering of other ledgers). Types are checked
by the engine, on the module as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from blockcloud.service_chain.contracts import failures
from blockcloud.service_chain.contracts.limits import (
    BLOCK_DEPTH,
    CALL_FRAMES,
    CODE_BYTES,
    COMPLEXITY,
    EXPORT_NAME_BYTES,
    EXPORTS,
    FRAME_OVERHEAD_SLOTS,
    FRAME_SLOTS,
    FUNCTIONS,
    GLOBALS,
    MEMORY_PAGES,
    REWRITTEN_BYTES,
    STACK_SLOTS,
    TABLE_ELEMENTS,
    TYPES,
)

HOST_MODULE: Final = "blockcloud"
MEMORY: Final = "memory"
INIT: Final = "init"
# Run in every fresh instance before the method, where a compiler needs it: what it would put into a start function.
INITIALIZE: Final = "_initialize"
# The counter of frames, exported so that the engine's owner can tell why a call trapped.
FRAMES_EXPORT: Final = "blockcloud:frames"

I32: Final = 0x7F
I64: Final = 0x7E
EMPTY: Final = 0x40
MAGIC: Final = b"\x00asm\x01\x00\x00\x00"
FUNCTION: Final = 0

# Stand, by identity, for what counts a frame until the limit is known.
ENTER: Final = bytes(bytearray(b"enter"))
LEAVE: Final = bytes(bytearray(b"leave"))

Signature = tuple[bytes, bytes]  # value types of parameters and results
METHOD: Final[Signature] = (b"", b"")


@dataclass(frozen=True, slots=True)
class Checked:
    """A module of the profile: `code` with the counter in it, the methods that can be called, the most frames."""

    code: bytes
    methods: tuple[str, ...]
    frames: int


class _Reader:
    """Bytes of a module, read forwards. Every read is bounded; what is not there is ContractMalformed."""

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self.data, self.at, self.end = data, start, len(data) if end is None else end

    def byte(self) -> int:
        if self.at >= self.end:
            raise failures.ContractMalformed("the module ends too early", offset=self.at)
        self.at += 1
        return self.data[self.at - 1]

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            raise failures.ContractMalformed("the module ends too early", offset=self.at)
        self.at += count
        return self.data[self.at - count : self.at]

    def u32(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 28:
                raise failures.ContractMalformed("a number is too long", offset=self.at)
        if value > 0xFFFFFFFF:
            raise failures.ContractMalformed("a number is too large", offset=self.at)
        return value

    def skip_signed(self, most: int) -> None:
        """A signed number of at most so many bytes; its value is the engine's business."""
        for _ in range(most):
            if self.byte() < 0x80:
                return
        raise failures.ContractMalformed("a number is too long", offset=self.at)

    def count(self, most: int, what: str) -> int:
        value = self.u32()
        if value > most:
            raise failures.ContractTooLarge(f"too many {what}", count=value, limit=most)
        return value

    def value_type(self) -> int:
        return _integer_type(self.byte())


def _integer_type(byte: int) -> int:
    if byte in (I32, I64):
        return byte
    if byte in (0x7D, 0x7C):
        raise failures.ContractUsesFloats("a value of a floating point type")
    if byte == 0x7B:
        raise failures.ContractUsesSimd("a value of a vector type")
    if byte in (0x70, 0x6F) or 0x60 <= byte <= 0x6E:
        raise failures.ContractUsesExtension("a value of a reference type")
    raise failures.ContractMalformed("an unknown value type", byte=byte)


@dataclass(slots=True)
class _Module:
    """What has been read of a module."""

    host: Mapping[str, Signature]
    types: list[Signature] = field(default_factory=list)
    imported: list[Signature] = field(default_factory=list)
    functions: list[Signature] = field(default_factory=list)  # imported ones first
    globals: int = 0
    tables: int = 0
    memories: int = 0
    methods: list[str] = field(default_factory=list)
    exported: set[str] = field(default_factory=set)
    bodies: list[list[bytes]] = field(default_factory=list)
    largest_frame: int = 0
    complexity: int = 0


def check_module(code: bytes, host: Mapping[str, Signature]) -> Checked:
    """The module in `code`, if it is of the profile and imports only functions of `host`. Raises ContractRefused.

    Whether its types fit is not asked here.
    """
    if len(code) > CODE_BYTES:
        raise failures.ContractTooLarge("the module is too large", bytes=len(code), limit=CODE_BYTES)
    module, sections = _Module(host), _sections(code)
    for number, start, end in sections:
        if number:
            reader = _Reader(code, start, end)
            _SECTIONS[number](module, reader)
            if reader.at != end:
                raise failures.ContractMalformed("a section is longer than what is in it", section=number)
    if len(module.bodies) != len(module.functions) - len(module.imported):
        raise failures.ContractMalformed("functions and their bodies differ in number")
    if not module.methods:
        raise failures.ContractExport("the module exports no method: a function without parameters and results")
    frames = min(CALL_FRAMES, STACK_SLOTS // (FRAME_OVERHEAD_SLOTS + module.largest_frame))
    rewritten = _rewritten(code, sections, module, frames)
    if len(rewritten) > REWRITTEN_BYTES:
        raise failures.ContractTooLarge("too many calls", bytes=len(rewritten), limit=REWRITTEN_BYTES)
    return Checked(rewritten, tuple(module.methods), frames)


def without_custom_sections(code: bytes) -> bytes:
    """A module without names and notes, which nobody reads here and which cost a deposit. Raises ContractMalformed."""
    kept = [(number, code[start:end]) for number, start, end in _sections(code) if number]
    return MAGIC + b"".join([bytes((number,)) + _unsigned(len(part)) + part for number, part in kept])


def _sections(code: bytes) -> list[tuple[int, int, int]]:
    """(number, start, end) of each section, in the order that WebAssembly demands."""
    if code[: len(MAGIC)] != MAGIC:
        raise failures.ContractMalformed("not a module of WebAssembly version 1")
    reader, found, last = _Reader(code, len(MAGIC)), [], 0
    while reader.at < reader.end:
        number, size = reader.byte(), reader.u32()
        start = reader.at
        reader.take(size)
        if number:  # custom sections, numbered 0, may stand anywhere
            if number == 8:
                raise failures.ContractHasStart
            if number in (12, 13):
                raise failures.ContractUsesExtension("a section of an extension", section=number)
            if number not in _SECTIONS or number <= last:
                raise failures.ContractMalformed("an unknown section, or out of order", section=number)
            last = number
        found.append((number, start, reader.at))
    return found


def _read_types(module: _Module, reader: _Reader) -> None:
    for _ in range(reader.count(TYPES, "types")):
        if reader.byte() != 0x60:
            raise failures.ContractUsesExtension("a type that is no function")
        parameters = bytes(reader.value_type() for _ in range(reader.count(FRAME_SLOTS, "parameters")))
        results = bytes(reader.value_type() for _ in range(reader.count(FRAME_SLOTS, "results")))
        if len(results) > 1:
            raise failures.ContractUsesExtension("a function with several results")
        module.types.append((parameters, results))


def _read_imports(module: _Module, reader: _Reader) -> None:
    for _ in range(reader.count(FUNCTIONS, "imports")):
        place, name = _name(reader), _name(reader)
        if reader.byte() != FUNCTION or place != HOST_MODULE or name not in module.host:
            raise failures.ContractImport("no such host function", name=f"{place}.{name}"[:80])
        signature = _type(module, reader.u32())
        if signature != module.host[name]:
            raise failures.ContractImport("the host function has another type", name=name)
        module.imported.append(signature)
    module.functions = list(module.imported)


def _read_functions(module: _Module, reader: _Reader) -> None:
    for _ in range(reader.count(FUNCTIONS, "functions")):
        module.functions.append(_type(module, reader.u32()))


def _read_tables(module: _Module, reader: _Reader) -> None:
    module.tables = reader.count(1, "tables")
    for _ in range(module.tables):
        if reader.byte() != 0x70:
            raise failures.ContractUsesExtension("a table of something else than functions")
        least, most = _limits(reader)
        if max(least, most) > TABLE_ELEMENTS:
            raise failures.ContractTooLarge("too many elements in a table", count=max(least, most))


def _read_memories(module: _Module, reader: _Reader) -> None:
    module.memories = reader.u32()
    if module.memories > 1:
        raise failures.ContractUsesExtension("more than one memory")
    for _ in range(module.memories):
        least, most = _limits(reader)
        if max(least, most) > MEMORY_PAGES:
            raise failures.ContractMemoryTooLarge(pages=max(least, most), limit=MEMORY_PAGES)


def _read_globals(module: _Module, reader: _Reader) -> None:
    for _ in range(reader.count(GLOBALS, "globals")):
        reader.value_type()
        if reader.byte() > 1:
            raise failures.ContractMalformed("a global is constant or variable")
        _constant(reader)
        module.globals += 1


def _read_exports(module: _Module, reader: _Reader) -> None:
    for _ in range(reader.count(EXPORTS, "exports")):
        name, kind, index = _name(reader), reader.byte(), reader.u32()
        have = {0: len(module.functions), 1: module.tables, 2: module.memories, 3: module.globals}
        if kind not in have or index >= have[kind]:
            raise failures.ContractMalformed("an export of nothing", name=name)
        if name in module.exported or name == FRAMES_EXPORT:
            raise failures.ContractExport("a name is exported twice, or reserved", name=name)
        if name == MEMORY and kind != 2:
            raise failures.ContractExport("what is exported as memory must be one", name=name)
        module.exported.add(name)
        if kind == FUNCTION and module.functions[index] == METHOD:
            module.methods.append(name)


def _read_elements(module: _Module, reader: _Reader) -> None:
    for _ in range(reader.count(TABLE_ELEMENTS, "element segments")):
        if reader.u32() != 0 or not module.tables:
            raise failures.ContractUsesExtension("an element segment of another kind")
        _constant(reader)
        for _ in range(reader.count(TABLE_ELEMENTS, "elements")):
            if reader.u32() >= len(module.functions):
                raise failures.ContractMalformed("an element that is no function")


def _read_code(module: _Module, reader: _Reader) -> None:
    count = reader.count(FUNCTIONS, "bodies")
    if count != len(module.functions) - len(module.imported):
        raise failures.ContractMalformed("functions and their bodies differ in number")
    for number in range(count):
        size = reader.u32()
        end = reader.at + size
        if end > reader.end:
            raise failures.ContractMalformed("the module ends too early", offset=reader.at)
        parameters = module.functions[len(module.imported) + number][0]
        module.bodies.append(_Body(module, _Reader(reader.data, reader.at, end), len(parameters)).read())
        reader.at = end


def _read_data(module: _Module, reader: _Reader) -> None:
    for _ in range(reader.count(CODE_BYTES, "data segments")):
        if reader.u32() != 0 or not module.memories:
            raise failures.ContractUsesExtension("a data segment of another kind")
        _constant(reader)
        reader.take(reader.u32())


_SECTIONS: Final[Mapping[int, Callable[[_Module, _Reader], None]]] = {
    1: _read_types,
    2: _read_imports,
    3: _read_functions,
    4: _read_tables,
    5: _read_memories,
    6: _read_globals,
    7: _read_exports,
    9: _read_elements,
    10: _read_code,
    11: _read_data,
}


def _name(reader: _Reader) -> str:
    try:
        return reader.take(reader.count(EXPORT_NAME_BYTES, "bytes in a name")).decode()
    except UnicodeDecodeError:
        raise failures.ContractMalformed("a name that is no text") from None


def _type(module: _Module, index: int) -> Signature:
    if index >= len(module.types):
        raise failures.ContractMalformed("no such type", index=index)
    return module.types[index]


def _limits(reader: _Reader) -> tuple[int, int]:
    flag = reader.byte()
    if flag in (2, 3):
        raise failures.ContractUsesThreads("a shared memory")
    if flag > 1:
        raise failures.ContractUsesExtension("a memory or table of another kind")
    least = reader.u32()
    return least, reader.u32() if flag else least


def _constant(reader: _Reader) -> None:
    """The value that a global or a place begins with: one constant."""
    opcode = reader.byte()
    if opcode in (0x43, 0x44):
        raise failures.ContractUsesFloats("a floating point constant")
    if opcode not in (0x41, 0x42):
        raise failures.ContractUsesExtension("a first value that is no constant")
    reader.skip_signed(5 if opcode == 0x41 else 10)
    if reader.byte() != 0x0B:
        raise failures.ContractUsesExtension("a first value that is no constant")


# How many operands an instruction without immediates leaves more than it takes.
_PLAIN: Final[Mapping[int, int]] = {
    0x01: 0,  # nop
    0x1A: -1,  # drop
    0x1B: -2,  # select
    0x45: 0,  # i32.eqz
    **dict.fromkeys(range(0x46, 0x50), -1),  # comparisons of i32
    0x50: 0,  # i64.eqz
    **dict.fromkeys(range(0x51, 0x5B), -1),
    **dict.fromkeys(range(0x67, 0x6A), 0),  # clz, ctz, popcnt
    **dict.fromkeys(range(0x6A, 0x79), -1),
    **dict.fromkeys(range(0x79, 0x7C), 0),
    **dict.fromkeys(range(0x7C, 0x8B), -1),
    0xA7: 0,  # i32.wrap_i64
    0xAC: 0,  # i64.extend_i32_s
    0xAD: 0,
    **dict.fromkeys(range(0xC0, 0xC5), 0),  # sign extension
}
_LOADS: Final = (0x28, 0x29, *range(0x2C, 0x36))
_STORES: Final = (0x36, 0x37, *range(0x3A, 0x3F))
_FLOATS: Final = (
    *(0x2A, 0x2B, 0x38, 0x39, 0x43, 0x44),
    *(*range(0x5B, 0x67), *range(0x8B, 0xA7), *range(0xA8, 0xAC), *range(0xAE, 0xC0)),
)
# local.get, local.set, local.tee
_LOCALS: Final[Mapping[int, int]] = {0x20: 1, 0x21: -1, 0x22: 0}


class _Body:
    """One function: checks its instructions, finds how many operands it holds at most, and wraps its calls."""

    def __init__(self, module: _Module, reader: _Reader, parameters: int) -> None:
        self._module, self._reader = module, reader
        self._slots = parameters
        self._height = self._peak = 0
        self._blocks: list[tuple[int, int]] = [(0, 0)]  # (height below, results) of each open block
        self._opened = 0
        self._out: list[bytes] = []
        self._copied = reader.at

    def read(self) -> list[bytes]:
        """The body in pieces, with ENTER and LEAVE around its calls."""
        reader = self._reader
        for _ in range(reader.count(FRAME_SLOTS, "groups of locals")):
            self._slots += reader.count(FRAME_SLOTS, "locals")
            reader.value_type()
            if self._slots > FRAME_SLOTS:
                raise failures.ContractTooLarge("too many locals", limit=FRAME_SLOTS)
        while self._blocks:
            start = reader.at
            self._instruction(reader.byte(), start)
            self._peak = max(self._peak, self._height)
        if reader.at != reader.end:
            raise failures.ContractMalformed("instructions behind the end of a function")
        frame = self._slots + self._peak
        if frame > FRAME_SLOTS:
            raise failures.ContractTooLarge("a function with too many locals and operands", slots=frame)
        self._module.largest_frame = max(self._module.largest_frame, frame)
        self._module.complexity += (FRAME_OVERHEAD_SLOTS + frame) * self._opened
        if self._module.complexity > COMPLEXITY:
            raise failures.ContractTooLarge("too many blocks where many values live", limit=COMPLEXITY)
        self._copy(reader.at)
        return self._out

    def _instruction(self, opcode: int, start: int) -> None:
        change = _PLAIN.get(opcode)
        if change is not None:
            self._move(change)
        elif opcode in _LOCALS:
            self._reader.u32()
            self._move(_LOCALS[opcode])
        elif opcode in (0x41, 0x42):
            self._reader.skip_signed(5 if opcode == 0x41 else 10)
            self._move(1)
        elif opcode in (0x10, 0x11):
            self._call(opcode, start)
        elif opcode in (0x23, 0x24):
            # The counter of frames will stand behind the last global: nobody else may touch it.
            if self._reader.u32() >= self._module.globals:
                raise failures.ContractMalformed("no such global")
            self._move(1 if opcode == 0x23 else -1)
        elif opcode in _LOADS or opcode in _STORES:
            if self._reader.u32() > 3:
                raise failures.ContractUsesExtension("an access to another memory, or aligned too widely")
            self._reader.u32()
            self._move(0 if opcode in _LOADS else -2)
        elif opcode in (0x3F, 0x40):
            if self._reader.byte() != 0:
                raise failures.ContractUsesExtension("an access to another memory")
            self._move(1 if opcode == 0x3F else 0)
        else:
            self._control(opcode)

    def _control(self, opcode: int) -> None:
        reader = self._reader
        if opcode in (0x02, 0x03, 0x04):
            kind = reader.byte()
            results = 0 if kind == EMPTY else 1
            if results:
                _block_type(kind)
            self._move(-1 if opcode == 0x04 else 0)
            self._blocks.append((self._height, results))
            self._opened += 1
            if len(self._blocks) > BLOCK_DEPTH:
                raise failures.ContractTooLarge("too many blocks in blocks", limit=BLOCK_DEPTH)
        elif opcode == 0x05:
            self._height = self._blocks[-1][0]
        elif opcode == 0x0B:
            below, results = self._blocks.pop()
            self._height = below + results
        elif opcode in (0x0C, 0x0D):
            reader.u32()
            self._move(-1 if opcode == 0x0D else 0)
        elif opcode == 0x0E:
            for _ in range(reader.count(CODE_BYTES, "targets of a branch") + 1):
                reader.u32()
        elif opcode not in (0x00, 0x0F):
            raise _outside(opcode, reader)

    def _call(self, opcode: int, start: int) -> None:
        module, reader = self._module, self._reader
        index = reader.u32()
        if opcode == 0x10:
            if index >= len(module.functions):
                raise failures.ContractMalformed("a call of nothing")
            parameters, results = module.functions[index]
            own = index >= len(module.imported)
        else:
            parameters, results = _type(module, index)
            if reader.byte() != 0:
                raise failures.ContractUsesExtension("a call through another table")
            own = True
            self._move(-1)
        if own:
            self._copy(start)
            self._out.append(ENTER)
            self._copy(reader.at)
            self._out.append(LEAVE)
        self._move(len(results) - len(parameters))

    def _copy(self, until: int) -> None:
        self._out.append(self._reader.data[self._copied : until])
        self._copied = until

    def _move(self, change: int) -> None:
        """Exact where code can be reached; behind a branch it may be anything, but never below its block."""
        self._height = max(self._blocks[-1][0], self._height + change)


def _block_type(byte: int) -> int:
    """The type of a block with a result; types with parameters are written as numbers, and are not of the profile."""
    if byte in (I32, I64, 0x7D, 0x7C, 0x7B, 0x70, 0x6F):
        return _integer_type(byte)
    raise failures.ContractUsesExtension("a block with parameters or several results")


def _outside(opcode: int, reader: _Reader) -> failures.ContractRefused:
    """Why an instruction is not of the profile."""
    if opcode in _FLOATS:
        return failures.ContractUsesFloats("a floating point instruction", opcode=opcode)
    if opcode == 0xFC and reader.u32() < 8:
        return failures.ContractUsesFloats("a conversion from floating point", opcode=opcode)
    if opcode == 0xFD:
        return failures.ContractUsesSimd("a vector instruction")
    if opcode == 0xFE:
        return failures.ContractUsesThreads("an atomic instruction")
    return failures.ContractUsesExtension("an instruction outside the profile", opcode=opcode)


def _unsigned(value: int) -> bytes:
    """LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _signed(value: int) -> bytes:
    """LEB128 of a number that is not negative."""
    data = _unsigned(value)
    return data if data[-1] < 0x40 else bytes((*data[:-1], data[-1] | 0x80, 0))


def _rewritten(code: bytes, sections: list[tuple[int, int, int]], module: _Module, frames: int) -> bytes:
    """The module with the counter of frames, without its custom sections."""
    counter = _unsigned(module.globals)
    get, put = b"\x23" + counter, b"\x24" + counter
    # If the counter is at the limit: unreachable. Else one more; behind the call one less.
    enter = get + b"\x41" + _signed(frames) + b"\x4f\x04\x40\x00\x0b" + get + b"\x41\x01\x6a" + put
    leave = get + b"\x41\x01\x6b" + put
    bodies = [
        b"".join([enter if piece is ENTER else leave if piece is LEAVE else piece for piece in body])
        for body in module.bodies
    ]
    exported = FRAMES_EXPORT.encode()
    more = {
        6: b"\x7f\x01\x41\x00\x0b",
        7: _unsigned(len(exported)) + exported + b"\x03" + counter,
    }
    kept = {number: code[start:end] for number, start, end in sections if number}
    for number, addition in more.items():
        old = _Reader(kept.get(number, b"\x00"))
        count = old.u32()
        kept[number] = _unsigned(count + 1) + old.data[old.at :] + addition
    kept[10] = _unsigned(len(bodies)) + b"".join([_unsigned(len(body)) + body for body in bodies])
    return MAGIC + b"".join([bytes((number,)) + _unsigned(len(kept[number])) + kept[number] for number in sorted(kept)])
