from __future__ import annotations

from pathlib import Path

import pytest

from incdet.data.formats.xmlfile import load_xml
from incdet.errors import InputError


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-8", "UTF-8"),
        ("latin-1", "ISO-8859-1"),
        ("cp1252", "windows-1252"),
        ("utf-16", "utf-16"),
        ("utf-16", ""),
    ],
)
def test_a_text_is_read_in_its_encoding(tmp_path: Path, encoding: str, declared: str) -> None:
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    (tmp_path / "a.xml").write_bytes(f"{head}<annotation><name>Käse</name></annotation>".encode(encoding))
    assert load_xml(tmp_path / "a.xml").findtext("name") == "Käse"


@pytest.mark.parametrize("encoding", ["gb2312", "gbk", "big5", "shift_jis", "euc-kr"])
def test_an_encoding_of_several_bytes_is_read(tmp_path: Path, encoding: str) -> None:
    text = "電車" if encoding == "big5" else "三"
    content = f"<?xml version='1.0' encoding='{encoding}'?><annotation><name>{text}</name></annotation>"
    (tmp_path / "a.xml").write_bytes(content.encode(encoding))
    assert load_xml(tmp_path / "a.xml").findtext("name") == text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "encoding 'klingon', which is not known"),
        (b'<?xml version="1.0" encoding="zlib"?><annotation/>', "encoding 'zlib'"),
        (b'<?xml version="1.0" encoding="gb2312"?><annotation>\xff\xff</annotation>', "is no gb2312 text"),
        (b"<annotation>\xff</annotation>", "is no utf-8 text"),
        (b"<annotation><size>", "is cut off"),
        (b"", "is cut off"),
        (b"<annotation><a></b></annotation>", "is not XML"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "document type"),
        (b"<annotation>&unknown;</annotation>", "is not XML"),
        (b"<annotation>" + b"<a>" * 200_000, "is cut off"),
    ],
    ids=range(11),
)
def test_what_is_refused_names_the_file(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        load_xml(tmp_path / "a.xml")
    assert caught.value.findings[0].file == str(tmp_path / "a.xml") and caught.value.findings[0].fix


def test_deep_elements_are_harmless(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"<annotation>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</annotation>")
    assert load_xml(tmp_path / "a.xml").findall("object") == []
