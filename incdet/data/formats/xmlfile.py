"""XML as annotation tools write it, in any encoding that Python knows, and nothing of what XML can do beyond that."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from xml.etree import ElementTree

from incdet.data.formats.textfile import read_bytes
from incdet.errors import Finding, InputError

_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _Builder(ElementTree.TreeBuilder):
    """A tree without a document type: it could define entities that grow or read other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _HasDoctype


class _HasDoctype(Exception):
    pass


def load_xml(path: Path) -> ElementTree.Element:
    """The root element of an XML file.

    Raises:
        InputError: The file is missing, cut off, no XML, in an unknown encoding, or has a document type definition.
    """
    text = _decoded(path, read_bytes(path))
    parser = ElementTree.XMLParser(target=_Builder())
    try:
        parser.feed(text)
        return parser.close()
    except ElementTree.ParseError as error:
        cut = not text.rstrip().endswith("</annotation>")
        item, problem = f"line {error.position[0]}", "is cut off" if cut else f"is not XML: {error}"
        raise InputError(Finding(str(path), item, problem, "copy the file again")) from None
    except _HasDoctype:
        problem = "has a document type definition (<!DOCTYPE ...>), which can read other files"
        raise InputError(Finding(str(path), "file", problem, "delete the definition and its entities")) from None


def _decoded(path: Path, content: bytes) -> str:
    """The text, by its mark (BOM) or by the encoding it declares; UTF-8 where it says nothing."""
    declared = _ENCODING.match(content[:200])
    encoding = declared[1].decode("ascii") if declared else "utf-8"
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), encoding)
    try:
        return content.decode(encoding)
    except LookupError:
        problem = f"is in the encoding {encoding!r}, which is not known"
    except (UnicodeError, ValueError) as error:
        problem = f"is no {encoding} text ({getattr(error, 'reason', error)})"
    raise InputError(Finding(str(path), "file", problem, 'save it as UTF-8, with encoding="UTF-8" in its first line'))
