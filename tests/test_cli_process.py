"""How a command stands what surrounds it: encodings that lack a character, and wishes to end that are not Ctrl-C."""

from __future__ import annotations

import io
import os
import signal
import sys

import pytest

from vlcompare.cli import ending_like_ctrl_c, replace_what_cannot_be_encoded


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_answer_is_not_lost_to_the_outputs_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding=encoding, write_through=True))
    replace_what_cannot_be_encoded()
    print("two \u2264 three, \u6570")
    assert file.getvalue().decode(encoding).strip() == "two \\u2264 three, \\u6570"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_wish_to_end_is_heard_as_ctrl_c(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), ending_like_ctrl_c():
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 1)
    assert signal.getsignal(number) == before
