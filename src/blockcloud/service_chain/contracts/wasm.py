"""The binding to wasmtime: compile a checked module, run a method of it with so much fuel, call back into the host.

It goes below the package's own classes, because those share one slot for the exceptions of all threads (a trap in one
thread could surface as another's error) and cost more than a call itself. So the version is pinned exactly, as it must
be anyway: fuel is what this version says. The configuration leaves nothing to the machine: no threads, no clock, no
interrupts but fuel, instances that share nothing.

An exception in a host function never crosses into the engine: it becomes a trap, and the call raises it afterwards.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import wasmtime
from wasmtime import _ffi as ffi

from blockcloud.primitives.errors import LocalFault
from blockcloud.service_chain.contracts import failures
from blockcloud.service_chain.contracts.limits import (
    COMPILED_CODE_BYTES,
    COMPILED_MODULES,
    MEMORY_PAGES,
    STACK_BYTES,
    TABLE_ELEMENTS,
)
from blockcloud.service_chain.contracts.profile import (
    FRAMES_EXPORT,
    HOST_MODULE,
    I32,
    INITIALIZE,
    MEMORY,
    Checked,
    Signature,
)
from blockcloud.service_chain.rejections import Failed

PAGE_BYTES: Final = 64 * 1024
_TRAP: Final = b"host"
_OUT_OF_FUEL: Final = 11
_UNREACHABLE: Final = 9
_STACK_OVERFLOW: Final = 0
_OFF: Final = (
    "wasm_threads wasm_tail_call wasm_relaxed_simd wasm_simd wasm_multi_memory wasm_memory64 wasm_exceptions "
    "wasm_function_references wasm_gc"
).split()
_NO_FINALIZER: Final = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))

Host = Mapping[str, tuple[Signature, Callable[..., int | None]]]


def installed_engine() -> str:
    """The engine of this process, as the genesis names it."""
    return f"wasmtime-{version('wasmtime')}"


def from_text(text: str) -> bytes:
    """The module that the text format describes. Raises ContractMalformed. For tools: the ledger takes modules only."""
    try:
        return bytes(wasmtime.wat2wasm(text))
    except wasmtime.WasmtimeError as error:
        raise failures.ContractMalformed(str(error)) from None


class Running:
    """One method that is being executed: its fuel and its memory, for host functions."""

    __slots__ = ("_context", "_fuel", "_memory", "failure")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._fuel = ctypes.c_uint64(0)
        self._memory: Any = None
        self.failure: BaseException | None = None

    @property
    def fuel(self) -> int:
        """What is left."""
        ffi.wasmtime_context_get_fuel(self._context, ctypes.byref(self._fuel))
        return self._fuel.value

    @fuel.setter
    def fuel(self, fuel: int) -> None:
        ffi.wasmtime_context_set_fuel(self._context, fuel)

    def charge(self, fuel: int) -> None:
        """Take fuel. Raises OutOfFuel, and takes all there is then."""
        left = self.fuel - fuel
        if left < 0:
            self.fuel = 0
            raise failures.OutOfFuel
        self.fuel = left

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the contract's memory. Raises HostMemory."""
        return ctypes.string_at(self._place(start, length), length) if length else b""

    def write(self, start: int, data: bytes) -> None:
        """Put bytes into the contract's memory. Raises HostMemory."""
        if data:
            ctypes.memmove(self._place(start, len(data)), data, len(data))

    def _place(self, start: int, length: int) -> int:
        memory = self._memory
        size = 0 if memory is None else ffi.wasmtime_memory_data_size(self._context, ctypes.byref(memory))
        if start + length > size:
            raise failures.HostMemory(start=start, bytes=length, memory=size)
        return ctypes.addressof(ffi.wasmtime_memory_data(self._context, ctypes.byref(memory)).contents) + start


class Compiled:
    """A module that can be instantiated at once; `frames` is the limit of its counter."""

    __slots__ = ("frames", "methods", "ready", "size")

    def __init__(self, ready: Any, checked: Checked) -> None:
        self.ready, self.frames, self.size = ready, checked.frames, len(checked.code)
        self.methods = checked.methods


class Engine:
    """A wasmtime engine with the host functions `host`, and the modules that it compiled last. One thread at a time."""

    def __init__(self, host: Host, running: Sequence[Any]) -> None:
        config = wasmtime.Config()
        config.consume_fuel = True
        config.parallel_compilation = False
        config.cranelift_opt_level = "none"  # compiling is what costs, not running
        config.max_wasm_stack = STACK_BYTES
        config.memory_reservation = MEMORY_PAGES * PAGE_BYTES
        config.memory_guard_size = 0
        for name in _OFF:
            setattr(config, name, False)
        self._engine = wasmtime.Engine(config)
        self._linker = wasmtime.Linker(self._engine)
        self._running = running
        self._kept: list[object] = []  # what C holds pointers to
        self._modules: OrderedDict[bytes, Compiled] = OrderedDict()
        self._compiled_bytes = 0
        for name, (signature, function) in host.items():
            self._define(name, signature, function)
        # Also when the process ends, in the right order and before the interpreter has taken the package apart.
        weakref.finalize(self, _close, self._modules, self._linker, self._engine)

    def _define(self, name: str, signature: Signature, function: Callable[..., int | None]) -> None:
        callback = ffi.wasmtime_func_unchecked_callback_t(_callback(self._running, signature, function))
        kinds = [
            [wasmtime.ValType.i32() if kind == I32 else wasmtime.ValType.i64() for kind in part] for part in signature
        ]
        shape = wasmtime.FuncType(kinds[0], kinds[1])
        self._kept += [callback, shape]
        place, text = HOST_MODULE.encode(), name.encode()
        error: Any = ffi.wasmtime_linker_define_func_unchecked(
            self._linker.ptr(), ctypes.create_string_buffer(place), len(place), ctypes.create_string_buffer(text),
            len(text), shape.ptr(), callback, None, _NO_FINALIZER,
        )  # fmt: skip
        if error:
            raise LocalFault("the engine does not take a host function", name=name)

    def validate(self, code: bytes) -> None:
        """Raise ContractMalformed unless the types of a module, whose bytes were checked, fit."""
        try:
            wasmtime.Module.validate(self._engine, code)
        except wasmtime.WasmtimeError as error:
            raise failures.ContractMalformed(str(error).split("\n")[0]) from None

    def compiled(self, code_hash: bytes, module: Callable[[], Checked]) -> Compiled:
        """The module of this hash, ready to be instantiated; `module` gives it if it is not in memory."""
        found = self._modules.get(code_hash)
        if found is not None:
            self._modules.move_to_end(code_hash)
            return found
        checked = module()
        try:
            ready = self._linker.instantiate_pre(wasmtime.Module(self._engine, checked.code))
        except wasmtime.WasmtimeError as error:
            raise failures.ContractMalformed(str(error).split("\n")[0]) from None
        compiled = self._modules[code_hash] = Compiled(ready, checked)
        self._compiled_bytes += compiled.size
        while len(self._modules) > COMPILED_MODULES or self._compiled_bytes > COMPILED_CODE_BYTES:
            self._compiled_bytes -= self._modules.popitem(last=False)[1].size
        return compiled

    def run(
        self, module: Compiled, method: str, fuel: int, began: Callable[[Running], None]
    ) -> tuple[int, Failed | None]:
        """Execute `method` in a fresh instance of a `compiled` module; (fuel left, why it failed or None).

        `began` is given what host functions work with, before the first instruction. Faults of this node are raised.
        """
        store = ffi.wasmtime_store_new(self._engine.ptr(), None, _NO_FINALIZER)
        try:
            context = ffi.wasmtime_store_context(store)
            ffi.wasmtime_store_limiter(store, MEMORY_PAGES * PAGE_BYTES, TABLE_ELEMENTS, 1, 1, 1)
            running = Running(context)
            running.fuel = fuel
            began(running)
            error = _execute(context, running, module, method)
            if isinstance(error, LocalFault | MemoryError | OSError):
                raise error  # this node's trouble alone: it must stop rather than differ
            if error is None or isinstance(error, Failed):
                failure = error
            else:
                failure = failures.HostFault(kind=type(error).__name__)
            return (0 if isinstance(failure, failures.OutOfFuel) else running.fuel), failure
        finally:
            ffi.wasmtime_store_delete(store)


def _close(modules: OrderedDict[bytes, Compiled], linker: wasmtime.Linker, engine: wasmtime.Engine) -> None:
    """Give back what the engine has."""
    for module in modules.values():
        module.ready.close()
    modules.clear()
    linker.close()
    engine.close()


def _execute(context: Any, running: Running, module: Compiled, method: str) -> Exception | None:
    instance = ffi.wasmtime_instance_t()
    trap: Any = ctypes.POINTER(ffi.wasm_trap_t)()
    error: Any = ffi.wasmtime_instance_pre_instantiate(
        module.ready.ptr(), context, ctypes.byref(instance), ctypes.byref(trap)
    )
    if error:
        raise _fault(error)
    if trap:
        # Such as a data segment outside of the memory.
        return _failure(context, instance, trap, 0)
    memory = _export(context, instance, MEMORY)
    running._memory = memory.of.memory if memory is not None else None
    names = (INITIALIZE, method) if INITIALIZE in module.methods else (method,)
    for name in names:
        failure = _call(context, instance, running, module, name)
        if failure is not None:
            return failure
    return None


def _call(context: Any, instance: Any, running: Running, module: Compiled, name: str) -> Exception | None:
    function = _export(context, instance, name)
    trap: Any = ctypes.POINTER(ffi.wasm_trap_t)()
    if function is None:
        return failures.UnknownMethod(method=name)
    values = (ffi.wasmtime_val_raw_t * 1)()
    error: Any = ffi.wasmtime_func_call_unchecked(
        context, ctypes.byref(function.of.func), values, 1, ctypes.byref(trap)
    )
    if running.failure is not None:
        # A trap that a host function made, which counts as an error of the engine.
        _free(trap, error)
        if isinstance(running.failure, Exception):
            return running.failure
        raise running.failure
    if error:
        raise _fault(error)
    return _failure(context, instance, trap, module.frames) if trap else None


def _free(trap: Any, error: Any) -> None:
    if trap:
        ffi.wasm_trap_delete(trap)
    if error:
        ffi.wasmtime_error_delete(error)


class EngineFault(LocalFault):
    """The engine could not do its work, such as for want of memory."""

    code = "engine_fault"


def _fault(error: Any) -> EngineFault:
    """What is no trap: modules were checked, so it is this node's own trouble. It must stop rather than differ."""
    ffi.wasmtime_error_delete(error)
    return EngineFault()


def _failure(context: Any, instance: Any, trap: Any, frames: int) -> Exception:
    """Why the engine trapped; frees what it gave."""
    code = ctypes.c_uint8(255)
    ffi.wasmtime_trap_code(trap, ctypes.byref(code))
    ffi.wasm_trap_delete(trap)
    if code.value == _OUT_OF_FUEL:
        return failures.OutOfFuel()
    if code.value == _STACK_OVERFLOW:
        return failures.ContractStackOverflow()
    if frames and code.value == _UNREACHABLE and _frames(context, instance) >= frames:
        return failures.ContractStackOverflow()
    return failures.ContractTrapped(trap=code.value)


def _frames(context: Any, instance: Any) -> int:
    """Where the counter of frames stands."""
    counter, value = _export(context, instance, FRAMES_EXPORT), ffi.wasmtime_val_t()
    if counter is None:
        return 0
    ffi.wasmtime_global_get(context, ctypes.byref(counter.of.global_), ctypes.byref(value))
    return int(value.of.i32)


def _export(context: Any, instance: Any, name: str) -> Any:
    text, item = name.encode(), ffi.wasmtime_extern_t()
    found = ffi.wasmtime_instance_export_get(
        context, ctypes.byref(instance), ctypes.create_string_buffer(text), len(text), ctypes.byref(item)
    )
    return item if found else None


def _trap() -> int:
    """A new trap, which the engine frees."""
    trap = ffi.wasmtime_trap_new(ctypes.create_string_buffer(_TRAP), len(_TRAP))
    return ctypes.cast(trap, ctypes.c_void_p).value or 0


def _callback(
    running: Sequence[Any], signature: Signature, function: Callable[..., int | None]
) -> Callable[[Any, Any, Any, int], int]:
    """`function` for the engine: arguments come and the result goes in `values`, unsigned; 0 says that it went well."""
    parameters, results = signature
    places = tuple(enumerate([kind == I32 for kind in parameters]))
    short = bool(results) and results[0] == I32

    def call(_environment: Any, _caller: Any, values: Any, _count: int) -> int:
        frame = running[-1]
        try:
            result = function(
                frame,
                *[values[i].i32 & 0xFFFFFFFF if is_i32 else values[i].i64 & 0xFFFFFFFFFFFFFFFF for i, is_i32 in places],
            )
        except BaseException as error:  # noqa: BLE001  nothing may cross into the engine; `run` raises or returns it
            frame.running.failure = error
            return _trap()
        if result is not None:
            if short:
                values[0].i32 = result
            else:
                values[0].i64 = result
        return 0

    return call
