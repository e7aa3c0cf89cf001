"""The real page over the embedded pair, in headless Chromium and by gradio_client: nothing here is faked.

The answers are whatever the pair says; what is tested is that they come, on both sides, with figures and boxes that
belong together, through uploads, every kind of example, Stop, a damaged checkpoint, follow-ups and files.
"""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import choose_task, compare, done, pick, said, stop, text, upload
from ui_fakes import until

from vlcompare.types import Answer, Request
from vlcompare.ui.examples import load_examples

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[1]
KINDS = {example.task: example for example in reversed(load_examples())}  # one example of each task


class Held(threading.Event):
    """A cancel that holds the engine, which looks at it once a token, from the third token until Stop is pressed."""

    def __init__(self, cancel: threading.Event) -> None:
        super().__init__()
        self.cancel, self.tokens = cancel, 0

    def set(self) -> None:
        self.cancel.set()

    def is_set(self) -> bool:
        return self.cancel.wait(600) if self.tokens >= 3 else self.cancel.is_set()


def until_stopped(image: Any, request: Request, sides: Any, *, cancel: threading.Event, **how: Any) -> Iterator[Any]:
    """The real comparison, in the middle of an answer for as long as it takes to press Stop."""
    from vlcompare.comparison import compare as real

    held = Held(cancel)
    longer = replace(request, stop_at_end=False, max_new_tokens=300)
    for event in real(image, longer, sides, cancel=held, **how):
        held.tokens += event is not None and event.kind == "step"
        yield event


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The page as `serve` builds it, with a folder that visitors may open, in which a checkpoint is cut off."""
    from vlcompare.comparison import compare as real
    from vlcompare.ui.page import build_page, launch, real_handlers
    from vlcompare.ui.settings import AppSettings

    folder = tmp_path_factory.mktemp("real")
    damaged = folder / "models" / "damaged"
    shutil.copytree(ROOT / "checkpoints" / "tiny-mamba-vl", damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    settings = AppSettings(data=folder / "data", allow_path=folder / "models")
    handlers = real_handlers(settings)
    state = SimpleNamespace(held=False, folder=folder, handlers=handlers)
    handlers.compare = lambda *given, **how: (until_stopped if state.held else real)(*given, **how)
    page = build_page(settings, handlers)
    _, state.address, _ = launch(page, settings, prevent_thread_lock=True)
    yield state
    page.close()


def scene(seed: int) -> bytes:
    from vlcompare.synth.scenes.scene import draw_scene

    buffer = io.BytesIO()
    draw_scene(seed).image.save(buffer, "PNG")
    return buffer.getvalue()


def answered(page: Any) -> None:
    """Both sides have said something, with figures, and neither has failed."""
    for side in ("left", "right"):
        assert page.locator(f"#vl-{side}-card [role=alert]").count() == 0, text(page, f"#vl-{side}-card")
        assert page.locator(f"#vl-{side}-tokens .vl-token").count() >= 1
        assert " ms" in text(page, f"#vl-{side}-card .vl-live") or " s" in text(page, f"#vl-{side}-card .vl-live")


def test_an_uploaded_scene_measured_and_raced(visit: Any) -> None:
    page = visit()
    upload(page, scene(2026_000_101))
    choose_task(page, "Caption")
    compare(page)
    answered(page)
    said(page, "#vl-notice", "drawn scenes")  # not one of the shipped examples
    page.get_by_role("button", name="Exact figures").click()
    said(page, "#vl-figures", "112×112, squeezed")
    assert "KB cache (formula" in text(page, "#vl-figures") and "KB state (formula" in text(page, "#vl-figures")
    assert page.locator("#vl-charts .vl-measured").count() == 2 and page.locator("#vl-charts .vl-dash").count() == 2
    page.locator("#vl-mode input[value='race']").check()
    compare(page)
    answered(page)
    assert "contended" in text(page, "#vl-figures") and "race" in text(page, "#vl-asked")


def test_an_example_of_every_task(visit: Any) -> None:
    others = {"captioning", "grounded_captioning", "vqa"}  # asked by other tests here
    page = visit()
    for task in KINDS.keys() - others:
        example = KINDS[task]
        pick(page, example.id)
        compare(page)
        answered(page)
        if example.truth:
            assert page.locator("#vl-together .vl-truth").count() == len(example.truth), task
    choose_task(page, "Chat")
    page.locator("#vl-text textarea").fill("What is in the picture?")
    compare(page)
    answered(page)
    assert page.locator(".vl-history-item").count() == len(KINDS) - len(others) + 1 >= 7


@pytest.mark.slow
def test_stop_in_the_middle_and_run_again(app: SimpleNamespace, visit: Any) -> None:
    page = visit()
    app.held = True
    try:
        page.locator("#vl-run").click()
        page.wait_for_function("Number(document.querySelector('#vl-left-card dl > div:last-child dd').innerText) >= 3")
        stop(page)
    finally:
        app.held = False
    assert "Stopped" in text(page, "#vl-left-card") and "Stopped" in text(page, "#vl-right-card")
    assert until(lambda: not any(entry.users for entry in app.handlers.pool._entries.values()))  # the device is free
    compare(page)
    answered(page)
    assert "Finished" in text(page, "#vl-left-card")


def test_a_damaged_checkpoint_fails_alone(visit: Any) -> None:
    page = visit("?left=damaged&right=tiny-mamba-vl")
    compare(page)
    assert "model.safetensors" in text(page, "#vl-left-card [role=alert]")
    assert page.locator("#vl-right-tokens .vl-token").count() >= 1 and "Failed" in text(page, "#vl-left-card")


def test_two_follow_ups_and_three_questions(visit: Any) -> None:
    page = visit(f"?example={KINDS['vqa'].id}")
    compare(page)
    page.get_by_role("button", name="Exact figures").click()
    page.get_by_role("button", name="Follow up on this picture").click()
    page.locator("#vl-follow-text textarea").fill("How many things are in the picture?")
    for how, heading in (("continue", "continued"), ("anew", "asked anew")):
        page.locator(f"#vl-follow-how input[value='{how}']").check()
        compare(page, "#vl-follow")
        assert heading in text(page, "#vl-asked")
        answered(page)
        assert "· vision encoder\t0.0 ms\t0.0 ms" in text(page, "#vl-figures")  # the picture was not encoded again
    page.get_by_role("button", name="Caption, question and box in one go").click()
    page.locator("#vl-three-find textarea, #vl-three-find input").first.fill("the red thing")
    page.locator("#vl-three").click()
    page.wait_for_function("document.querySelectorAll('.vl-history-item').length == 6")
    done(page)
    assert page.locator(".vl-three tbody tr").count() == 3 and "…" not in text(page, ".vl-three")
    page.locator(".vl-asked-one").nth(1).click()  # the second question's own run, with its figures
    said(page, "#vl-asked", "How many things")
    answered(page)
    compare(page)  # a question of its own is not one of the three
    assert page.locator(".vl-three").count() == 0


@pytest.mark.slow
def test_a_real_run_is_exported_and_comes_back(app: SimpleNamespace, visit: Any) -> None:
    page = visit(f"?example={KINDS['grounded_captioning'].id}")
    compare(page)
    answer = text(page, "#vl-left-card .vl-answer")
    with page.expect_download() as waiting:
        page.locator("#vl-save").click()
    file = app.folder / "run.json"
    waiting.value.save_as(file)
    answers = {side: Answer.from_json(found) for side, found in json.loads(file.read_text())["sides"].items()}
    assert answers["left"].memory.state_bytes == answers["left"].memory.state_bytes_formula > 0
    with page.expect_download() as waiting:
        page.locator("#vl-annotated").click()
    assert Path(waiting.value.path()).read_bytes().startswith(b"\x89PNG")
    fresh = visit()
    fresh.locator("#vl-load input[type=file], input[type=file][accept*='json']").first.set_input_files(str(file))
    said(fresh, "#vl-message", "as it was saved")
    assert text(fresh, "#vl-left-card .vl-answer") == answer


def test_the_endpoint_answers_with_the_real_pair(app: SimpleNamespace) -> None:
    from gradio_client import Client, handle_file

    example = KINDS["grounding"]
    client, picture = Client(app.address, verbose=False, ssl_verify=False), handle_file(str(example.image))
    found = client.predict(picture, task="grounding", text=example.text, api_name="/compare")
    for side, family in (("left", "pythia"), ("right", "mamba")):
        answer = Answer.from_json(found["sides"][side])
        assert answer.error is None and family in answer.checkpoint and answer.tokens and answer.timings.ttft_ms > 0
        assert len(answer.timings.token_ms) == len(answer.tokens) - 1 and answer.timings.mode == "measure"
    marks = "<|endoftext|> ### <image> && <|padding|>"  # typed by a person: text, whatever they look like
    found = client.predict(picture, task="chat", text=marks, left="tiny-mamba-vl", api_name="/compare")
    for side in ("left", "right"):
        prompt = Answer.from_json(found["sides"][side]).prompt
        assert prompt and prompt.ids.count(-200) == 49 and 0 not in prompt.ids and marks in "".join(prompt.turns)


def test_a_checkpoints_name_does_not_tell_what_is_in_the_working_directory(
    app: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, a file, a link, what may not be read, and nothing at all get the same sentence."""
    from gradio_client import Client, handle_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    owner = tmp_path / "owner"
    shutil.copytree(ROOT / "checkpoints" / "tiny-mamba-vl", owner / "whole")
    shutil.copytree(ROOT / "checkpoints" / "tiny-mamba-vl", tmp_path / "whole")
    (owner / "closed").mkdir(mode=0)
    (owner / "empty").mkdir()
    (owner / "file").write_text("")
    (owner / "linked").symlink_to(owner / "whole")
    (owner / "circle").symlink_to(owner / "circle")
    (owner / "dangling").symlink_to(tmp_path / "nowhere")
    client, picture = Client(app.address, verbose=False, ssl_verify=False), handle_file(str(KINDS["vqa"].image))

    def answered(name: str) -> str:
        try:
            found = client.predict(picture, task="captioning", left=name, right=name, api_name="/compare")
        except Exception as error:
            return str(error).replace(name, "NAME")
        return " ".join(str(found["sides"][side]["error"]) for side in ("left", "right")).replace(name, "NAME")

    names = ("whole", "closed", "empty", "file", "linked", "circle", "dangling", "absent")
    said = {answered(f"owner/{name}") for name in names}
    assert len(said) == 1 and "offline" in said.pop(), said
    said = {answered(name) for name in ("whole", "absent")}
    assert len(said) == 1 and "neither a known checkpoint nor a Hub id" in said.pop(), said
