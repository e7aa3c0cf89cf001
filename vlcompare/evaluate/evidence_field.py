"""The field `evidence_map` of a prediction row: a map of what the answer rests on, and its figures, typed."""

from __future__ import annotations

from typing import Any

from vlcompare.errors import RequestError
from vlcompare.evaluate.fields import FieldError, flag, listed, number, one_of, optional, record, text, whole
from vlcompare.evidence import BLANKS, Layout

MAX_SIDE = 256  # patches a side

_share, _figure = number(0, 1), number()
_PLACE = record(
    {**dict.fromkeys(("inside", "outside", "difference"), _figure), "largest_inside": flag, "chance": _share},
    ("inside", "outside", "difference", "largest_inside", "chance"),
)
_MAP = record(
    {
        "blank": one_of(*BLANKS),
        "grid": listed(whole(1, MAX_SIDE), 2, 2),
        "block": whole(1, MAX_SIDE),
        "logprob": _figure,
        "tokens": whole(),
        "falls": listed(optional(_figure), MAX_SIDE**2),
        "true_place": optional(_PLACE),
        "answered_place": optional(_PLACE),
    },
    ("blank", "grid", "block", "logprob", "falls"),
)
_REFUSED = record({"error": text(2000)}, ("error",))


def evidence_map(value: Any, path: str = "evidence_map") -> dict[str, Any]:
    """A map as `EvidenceMap.to_json` gives it, or `{"error": sentence}` where it could not be measured.

    Raises FieldError; also where there are more or fewer falls than blocks.
    """
    if type(value) is dict and "error" in value:
        return _REFUSED(value, path)  # type: ignore[no-any-return]
    read: dict[str, Any] = _MAP(value, path)
    try:
        rows, columns = read["grid"]
        blocks = len(Layout.of(rows, columns, read["block"]))
    except RequestError as error:
        raise FieldError(f"{path}.block", f"{read['block']}", "no more patches than the grid has a side") from error
    if len(read["falls"]) != blocks:
        raise FieldError(f"{path}.falls", f"a list of {len(read['falls'])}", f"one value for each of {blocks} blocks")
    return read
