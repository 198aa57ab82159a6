"""Damage to the bytes of a file, whatever the file is."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator


Damage = Callable[[Generator, bytes], tuple[str, bytes]]


def damage(random: Generator, content: bytes) -> tuple[str, bytes]:
    """One kind of damage, drawn at random: what it is, and what is left of the content."""
    return DAMAGES[random.integers(len(DAMAGES))](random, content)


def place(random: Generator, content: bytes) -> int:
    """A position in the content; half of them are near one of its ends, where containers have their headers."""
    size = max(len(content), 1)
    if random.random() < 0.5:
        return int(random.integers(size))
    near = int(random.integers(min(size, 1024)))
    return near if random.random() < 0.7 else size - 1 - near


def flip_bits(random: Generator, content: bytes) -> tuple[str, bytes]:
    changed, count = bytearray(content), int(random.choice([1, 3, 30]))
    for _ in range(count if content else 0):
        changed[place(random, content)] ^= 1 << random.integers(8)
    return f"{count} flipped bits", bytes(changed)


def overwrite(random: Generator, content: bytes) -> tuple[str, bytes]:
    start, length = place(random, content), int(random.choice([1, 4, 8, 64, 512]))
    fill = [bytes(length), b"\xff" * length, random.bytes(length)][random.integers(3)]
    return f"{length} bytes overwritten at {start}", content[:start] + fill + content[start + length :]


def truncate(random: Generator, content: bytes) -> tuple[str, bytes]:
    length = place(random, content)
    return f"truncated to {length} of {len(content)} bytes", content[:length]


def remove(random: Generator, content: bytes) -> tuple[str, bytes]:
    start, length = place(random, content), int(random.choice([1, 4, 100, 1000]))
    return f"{length} bytes removed at {start}", content[:start] + content[start + length :]


def duplicate(random: Generator, content: bytes) -> tuple[str, bytes]:
    start, length = place(random, content), int(random.choice([1, 4, 100, 1000]))
    return f"{length} bytes repeated at {start}", content[: start + length] + content[start:]


def insert(random: Generator, content: bytes) -> tuple[str, bytes]:
    start, length = place(random, content), int(random.choice([1, 4, 100, 1000]))
    return f"{length} random bytes inserted at {start}", content[:start] + random.bytes(length) + content[start:]


def swap_words(random: Generator, content: bytes) -> tuple[str, bytes]:
    """Two words of four bytes change places: sizes, counts, offsets."""
    words = np.frombuffer(content[: len(content) // 4 * 4], np.uint32).copy()
    if len(words) < 2:
        return "too short for two words", content
    a, b = (place(random, content[: len(words)]) for _ in range(2))
    words[[a, b]] = words[[b, a]]
    return f"words {a} and {b} swapped", words.tobytes() + content[len(words) * 4 :]


def prefix(random: Generator, content: bytes) -> tuple[str, bytes]:
    length = int(random.choice([1, 16, 5000]))
    return f"{length} random bytes before it", random.bytes(length) + content


def suffix(random: Generator, content: bytes) -> tuple[str, bytes]:
    length = int(random.choice([1, 16, 5000]))
    return f"{length} random bytes after it", content + random.bytes(length)


DAMAGES: tuple[Damage, ...] = (flip_bits, overwrite, truncate, remove, duplicate, insert, swap_words, prefix, suffix)
