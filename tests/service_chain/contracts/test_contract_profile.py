"""Which modules are let in, and that nothing else than a typed refusal comes of the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.sdk.contracts import build, check
from blockcloud.service_chain.contracts import failures
from blockcloud.service_chain.contracts.host import HOST, SIGNATURES
from blockcloud.service_chain.contracts.limits import CODE_BYTES
from blockcloud.service_chain.contracts.profile import FRAMES_EXPORT, check_module
from blockcloud.service_chain.contracts.wasm import Engine, from_text
from tests.service_chain.contracts.contract_world import EXAMPLES, method, module

ENGINE = Engine(HOST, [])
SAMPLES = [
    build(EXAMPLES / "escrow"),
    build(EXAMPLES / "data_access"),
    module(
        """(table 2 funcref) (elem (i32.const 0) $f $g) (global $n (mut i64) (i64.const 1))
        (type $t (func (result i32)))
        (func $f (result i32) (i32.const 1)) (func $g (result i32) (call_indirect (type $t) (i32.const 0)))
        (func (export "run") (block (loop (br_table 0 1 (i32.const 5)))) (global.set $n (i64.extend8_s (i64.const 7)))
          (drop (if (result i32) (call $g) (then (memory.grow (i32.const 1))) (else (memory.size)))))"""
    ),
]


def refusal(code: bytes) -> type[failures.ContractRefused]:
    with pytest.raises(failures.ContractRefused) as caught:
        check(code)
    return caught.type


def text(source: str) -> bytes:
    return from_text(f"(module {source})")


@pytest.mark.parametrize("code", SAMPLES)
def test_good_modules_are_let_in_and_still_valid_with_the_counter(code: bytes) -> None:
    checked = check(code)
    assert checked.methods
    ENGINE.validate(checked.code)
    assert check_module(code, SIGNATURES) == checked


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('(func (export "run") (drop (f32.const 1)))', failures.ContractUsesFloats),
        ('(func (export "run") (drop (f64.add (f64.const 1) (f64.const 1))))', failures.ContractUsesFloats),
        ('(func (export "run") (local f32))', failures.ContractUsesFloats),
        ('(func (export "run")) (func (param f64))', failures.ContractUsesFloats),
        ('(func (export "run")) (global f32 (f32.const 0))', failures.ContractUsesFloats),
        ('(func (export "run") (drop (f32.convert_i32_s (i32.const 1))))', failures.ContractUsesFloats),
        ('(func (export "run") (drop (i32.reinterpret_f32 (f32.const 1))))', failures.ContractUsesFloats),
        ('(func (export "run") (drop (i32.trunc_sat_f32_s (f32.const 1))))', failures.ContractUsesFloats),
        ('(memory 1) (func (export "run") (drop (f32.load (i32.const 1))))', failures.ContractUsesFloats),
        ('(func (export "run") (drop (block (result f32) unreachable)))', failures.ContractUsesFloats),
        ('(func (export "run") (drop (v128.const i64x2 1 1)))', failures.ContractUsesSimd),
        ('(memory 1 1 shared) (func (export "run"))', failures.ContractUsesThreads),
        ('(memory 1) (func (export "run") (drop (i32.atomic.load (i32.const 0))))', failures.ContractUsesThreads),
        ('(memory 1) (memory 1) (func (export "run"))', failures.ContractUsesExtension),
        ('(memory i64 1) (func (export "run"))', failures.ContractUsesExtension),
        (
            '(memory 1) (func (export "run") (memory.fill (i32.const 0) (i32.const 0) (i32.const 9)))',
            failures.ContractUsesExtension,
        ),
        ('(func (export "run") (return_call 0))', failures.ContractUsesExtension),
        ('(func (export "run") (drop (ref.null func)))', failures.ContractUsesExtension),
        ('(func (export "run")) (func (result i32 i32) (i32.const 1) (i32.const 1))', failures.ContractUsesExtension),
        ('(tag) (func (export "run"))', failures.ContractUsesExtension),
        ('(memory 17) (func (export "run"))', failures.ContractMemoryTooLarge),
        ('(memory 1 17) (func (export "run"))', failures.ContractMemoryTooLarge),
        ('(table 2000 funcref) (func (export "run"))', failures.ContractTooLarge),
        ("(func $s) (start $s)", failures.ContractHasStart),
        ('(import "env" "abort" (func)) (func (export "run"))', failures.ContractImport),
        ('(import "blockcloud" "now" (func (result i64))) (func (export "run"))', failures.ContractImport),
        ('(import "blockcloud" "height" (func (result i32))) (func (export "run"))', failures.ContractImport),
        ('(import "blockcloud" "height" (memory 1)) (func (export "run"))', failures.ContractImport),
        ("(func)", failures.ContractExport),
        (f'(func (export "run")) (func (export "{FRAMES_EXPORT}"))', failures.ContractExport),
        ('(func (export "run") (local ' + "i64 " * 1_100 + "))", failures.ContractTooLarge),
        ('(func (export "run") ' + "(i32.const 1)" * 1_100 + "drop " * 1_100 + ")", failures.ContractTooLarge),
    ],
)
def test_what_is_outside_the_profile_is_refused_with_its_reason(
    source: str, reason: type[failures.ContractRefused]
) -> None:
    assert refusal(text(source)) is reason


def with_body(body: bytes, locals_: bytes = b"\x00") -> bytes:
    """A module whose one method has this body, given in bytes."""

    def leb(value: int) -> bytes:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))

    code = locals_ + body + b"\x0b"
    head = b"\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x07\x05\x01\x01a\x00\x00\x0a"
    return head + leb(len(code) + 4) + b"\x01" + leb(len(code)) + code


MANY_LOCALS = b"\x01\xf0\x06\x7e"  # 880 of 64 bits


@pytest.mark.parametrize(
    "code",
    [
        with_body(b"\x03\x40" * 257 + b"\x0b" * 257),
        with_body(b"\x03\x40\x0b" * 4_000),
        with_body(b"\x03\x40\x0b" * 200, MANY_LOCALS),
        with_body(b"\x10\x00" * 4_000),
    ],
    ids=["nested", "many blocks", "blocks with many locals", "calls"],
)
def test_what_would_take_long_to_compile_is_refused(code: bytes) -> None:
    assert refusal(code) is failures.ContractTooLarge


def test_the_counter_of_frames_cannot_be_reached_by_the_contract() -> None:
    tampering = bytearray(text('(global (mut i32) (i32.const 0)) (func (export "run") (global.set 0 (i32.const 7)))'))
    place = bytes(tampering).rindex(b"\x24\x00")
    tampering[place + 1] = 1  # the global that the counter will be
    with pytest.raises(failures.ContractMalformed, match="no such global"):
        check_module(bytes(tampering), SIGNATURES)


def test_types_that_do_not_fit_are_refused() -> None:
    wrong = bytearray(method("(drop (i32.const 1))"))
    wrong[bytes(wrong).rindex(b"\x1a\x0b")] = 0x01  # a value is left behind
    assert refusal(bytes(wrong)) is failures.ContractMalformed


def test_a_module_above_the_limit_is_refused() -> None:
    assert refusal(b"\x00asm\x01\x00\x00\x00" + bytes(CODE_BYTES)) is failures.ContractTooLarge
    assert refusal(b"") is failures.ContractMalformed


def survives(code: bytes) -> None:
    """A refusal, or a module that the engine takes, also with the counter in it."""
    try:
        checked = check_module(code, SIGNATURES)
        ENGINE.validate(code)
    except failures.ContractRefused:
        return
    ENGINE.compiled(code, lambda: checked)


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_random_bytes_never_crash_the_validator(data: bytes) -> None:
    survives(b"\x00asm\x01\x00\x00\x00" + data)
    survives(data)


def changes(draw: Callable[[st.SearchStrategy[int]], int], code: bytes) -> bytes:
    data = bytearray(code)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(8, len(data) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                data[place] = draw(st.integers(0, 255))
            case 1:
                del data[place]
            case _:
                data.insert(place, draw(st.integers(0, 255)))
    return bytes(data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_changed_modules_never_crash_the_validator(data: st.DataObject) -> None:
    survives(changes(data.draw, data.draw(st.sampled_from(SAMPLES))))


@given(st.lists(st.integers(0, 255), max_size=12))
@settings(max_examples=300, deadline=None)
def test_random_instructions_never_crash_the_validator(body: list[int]) -> None:
    code = bytes((0, *body, 0x0B))
    head = (
        b"\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x05\x03\x01\x00\x01\x07\x05\x01\x01a\x00\x00"
    )
    survives(head + bytes((10, len(code) + 2, 1, len(code))) + code)


def test_the_text_format_of_the_engine_is_what_tests_think() -> None:
    assert wasmtime.wat2wasm("(module)") == b"\x00asm\x01\x00\x00\x00"
    with pytest.raises(failures.ContractMalformed):
        from_text("(module")
