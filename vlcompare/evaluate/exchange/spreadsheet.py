"""XLSX as VLMEvalKit uses it: the first sheet's rows in, and one sheet of texts out.

An XLSX is a zip of XML (ECMA-376, parts `sharedStrings` and `worksheet`). It is read piece by piece within limits. Of a
formula, the value that was saved beside it is read; where there is none, or rows share a merged cell, what they hold is
not known, and is said.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers import safe_xml
from vlcompare.evaluate.readers.opening import RowError

FORMULA = "\0formula"  # in place of the value of a formula that was never computed
MAX_PART = 512 << 20  # bytes of one part, unpacked
MAX_ROWS = 1 << 20  # as in Excel
MAX_TEXTS = 4 << 20  # that cells share
MAX_COLUMNS = 500
MAX_CELL = 100_000  # characters
_PIECE = 1 << 18
_SHEET = re.compile(r"xl/worksheets/sheet(\d{1,4})\.xml\Z")
_REFERENCE = re.compile(r"([A-Z]{1,3})\d+\Z")
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")


def sheet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(location, row) of the first sheet: its first row names the columns, cells are text. Raises SampleError."""
    try:
        with zipfile.ZipFile(path) as archive:
            sheets = _sheets(archive)
            if not sheets:
                raise SampleError(f"{path} is a spreadsheet without a sheet.")
            shared = _shared(archive)
            header: list[str] = []
            for number, cells in enumerate(_cells(archive, sheets[0], shared), 1):
                if not header:
                    header = [cells.get(column, "") for column in range(max(cells, default=-1) + 1)]
                elif FORMULA in cells.values():
                    yield f"row {number}", RowError("a formula without its value: open the file and save it once")
                elif cells:
                    row = {name: cells.get(column, "") for column, name in enumerate(header) if name}
                    yield f"row {number}", row
    except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, RowError) as error:
        raise SampleError(f"{path} is a spreadsheet that cannot be read ({error}).") from error


def sheet_count(path: Path) -> int:
    """How many sheets a spreadsheet has."""
    with zipfile.ZipFile(path) as archive:
        return len(_sheets(archive))


def _sheets(archive: zipfile.ZipFile) -> list[str]:
    numbered = sorted((int(m[1]), name) for name in archive.namelist() if (m := _SHEET.match(name)))
    return [name for _, name in numbered]


def _pieces(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    count = 0
    with archive.open(name) as part:
        while piece := part.read(_PIECE):
            count += len(piece)
            if count > MAX_PART:
                raise RowError(f"{name} unpacks to more than {MAX_PART:,} bytes")
            yield piece


def _shared(archive: zipfile.ZipFile) -> list[str]:
    """The texts that cells refer to by their number."""
    name = "xl/sharedStrings.xml"
    texts: list[str] = []
    if name not in archive.namelist():
        return texts
    parts: list[str] = []
    inside: list[str] = []
    room = MAX_CELL  # characters that the open text may still have

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal room
        if tag == "si":
            if len(texts) >= MAX_TEXTS:
                raise RowError(f"{name} has over {MAX_TEXTS:,} texts")
            parts.clear()
            room = MAX_CELL
        inside.append(tag)

    def end(tag: str) -> None:
        inside.pop()
        if tag == "si":
            texts.append("".join(parts))

    def text(characters: str) -> None:
        nonlocal room
        if room > 0 and inside[-1] == "t" and "rPh" not in inside:  # rPh: how a text is pronounced
            parts.append(characters[:room])
            room -= len(characters)

    safe_xml.parse(_pieces(archive, name), name, start, end, text)
    return texts


def _cells(archive: zipfile.ZipFile, name: str, shared: Sequence[str]) -> Iterator[dict[int, str]]:
    """Column -> text of each row."""
    rows: list[dict[int, str]] = []
    row: dict[int, str] = {}
    kind, column, value, formula = "n", 0, "", False
    inside: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal kind, column, value, formula
        inside.append(tag)
        if tag == "row":
            row.clear()
            column = -1
        elif tag == "mergeCell":
            _refuse_merged(attributes.get("ref", ""))
        elif tag == "c":
            kind, value, formula = attributes.get("t", "n"), "", False
            reference = _REFERENCE.match(attributes.get("r", ""))
            column = _number(reference[1]) if reference else column + 1
        elif tag == "f":
            formula = True

    def end(tag: str) -> None:
        inside.pop()
        if tag == "row":
            if len(rows) >= MAX_ROWS:
                raise RowError(f"{name} has over {MAX_ROWS:,} rows")
            rows.append(dict(row))
        elif tag == "c" and column < MAX_COLUMNS:
            if kind == "s":
                row[column] = shared[int(value)] if value.isdecimal() and int(value) < len(shared) else ""
            elif value or formula:
                row[column] = value or FORMULA

    def text(characters: str) -> None:
        nonlocal value
        if inside[-1] in ("v", "t") and len(value) < MAX_CELL:
            value += characters

    safe_xml.parse(_pieces(archive, name), name, start, end, text)
    yield from rows


def _refuse_merged(area: str) -> None:
    """Raise RowError where a merged cell spans several rows below the header: whose value it is, is not known."""
    rows = [int(number) for number in re.findall(r"\d{1,7}", area)]
    if len(rows) == 2 and rows[0] != rows[1]:
        raise RowError(f"the cells {area[:20]} are merged over several rows: unmerge them and fill each")


def _number(letters: str) -> int:
    """The number of a column by its letters; A is 0."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


# ---- writing ---------------------------------------------------------------------------------------------------------

_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPE}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r1" '
    f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
    '<sheet name="Sheet1" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r1" '
    f'Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}


def write_sheet(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write one sheet of texts; what begins like a formula is a text all the same."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _PARTS.items():
            archive.writestr(name, _XML + content)
        with archive.open("xl/worksheets/sheet1.xml", "w") as sheet:
            sheet.write(f'{_XML}<worksheet xmlns="{_MAIN}"><sheetData>'.encode())
            for row in (columns, *rows):
                cells = "".join(f'<c t="inlineStr"><is><t xml:space="preserve">{_clean(c)}</t></is></c>' for c in row)
                sheet.write(f"<row>{cells}</row>".encode())
            sheet.write(b"</sheetData></worksheet>")


def _clean(text: str) -> str:
    return escape(_ILLEGAL.sub("", text))
