"""HTML and SVG elements as text that is escaped by construction: what is not ``Markup`` yet is taken for plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

VOID = frozenset({"br", "col", "hr", "img", "link", "meta", "source"})
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


class Markup(str):
    """Text that is markup already and may be put into a page as it is."""

    __slots__ = ()


def text(value: object) -> Markup:
    """``value`` as markup; characters that XML has not become U+FFFD, and so do lone surrogates."""
    if isinstance(value, Markup):
        return value
    plain = _number(value) if isinstance(value, float) else str(value)
    plain = plain.encode("utf-8", "replace").decode("utf-8") if not plain.isascii() else plain
    return Markup(escape(_CONTROL.sub("\ufffd", plain), quote=True))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """All parts one after another."""
    return Markup(text(between).join(text(part) for part in parts))


def tag(element: str, /, *content: object, **attributes: object) -> Markup:
    """``<element attributes>content</element>``.

    An attribute's underscores become hyphens, one at its end is dropped (``class_``); None and False leave the
    attribute out, True writes its name alone. Floats are written with two decimals at most.
    """
    words = [element]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key}="{text(value)}"')
    opening = f"<{' '.join(words)}>"
    return Markup(opening if element in VOID else f"{opening}{join(content)}</{element}>")


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")
