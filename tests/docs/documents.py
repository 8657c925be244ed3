"""The documents of the checkout, as text, links and fenced blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "src" / "blockcloud"
FENCE = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document, with the language it names."""

    document: str
    language: str
    text: str


def documents() -> list[Path]:
    """Every Markdown file of the checkout."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [Block(path.relative_to(ROOT).as_posix(), language, body) for language, body in FENCE.findall(text)]


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def links(path: Path) -> list[str]:
    return LINK.findall(prose(path))


def command_lines(path: Path, program: str) -> Iterator[str]:
    """The lines of the blocks that start `program`, without their comments."""
    for block in blocks(path):
        if block.language in ("", "sh", "console"):
            for line in block.text.splitlines():
                command = re.sub(r"\s+#.*$", "", line.removeprefix("$ ")).strip()
                if command.startswith(program + " "):
                    yield command


def table_rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row, heads and rulers left out."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and not set(line) <= set("|-: ") and cells[0] != "phrase":
            yield cells
