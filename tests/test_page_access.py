"""The page for everybody: axe-core's findings, the keyboard alone, every width, and nothing that moves by itself."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import compare, done, settled
from axe_playwright_python.sync_playwright import Axe
from inspect_world import write_run, write_samples
from page_world import serving

pytestmark = pytest.mark.browser
SLOW = pytest.mark.slow

# before the page's own scripts: what moves without anybody having done anything, and how many timers are shown at once
WATCH = """
window.shifts = []; window.timers = 0;
const source = ({ node, previousRect: a, currentRect: b }) =>
  `${node?.id || node?.className || node?.nodeName} ${a.y | 0}+${a.height | 0} to ${b.y | 0}+${b.height | 0}`;
new PerformanceObserver((list) => {
  for (const one of list.getEntries())
    if (!one.hadRecentInput) window.shifts.push([one.value, one.sources.map(source)]);
}).observe({ type: 'layout-shift', buffered: true });
const count = () => {
  const shown = [...document.querySelectorAll('[data-testid=status-tracker]:not(.hide)')];
  window.timers = Math.max(window.timers, shown.filter((node) => node.checkVisibility()).length);
};
new MutationObserver(count).observe(document, { subtree: true, childList: true, attributes: true });
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The page with a run for the second tab, which is not opened at the start."""
    root = tmp_path_factory.mktemp("access")
    write_run(root / "runs" / "painted", write_samples(root / "data", 16))
    with serving(root, allow_path=root / "runs") as app:
        yield app


def inspect(page: Any) -> None:
    """Go to the second tab and open its run."""
    page.get_by_role("tab", name="Inspect").click()
    page.locator("#vi-runs input").click()
    page.get_by_role("option", name="painted").click()
    page.wait_for_selector("#vi-table .vi-rows")
    settled(page)


def study(page: Any) -> None:
    """Go to the third tab, and wait until the lab has answered. Three rows of each table are left: they are alike."""
    page.get_by_role("tab", name="Study").click()
    page.wait_for_selector("#vs-figures .vs-figure")
    page.wait_for_selector(".vs-answer[data-right]:not(.vs-old)")
    page.evaluate("document.querySelectorAll('.vs-figures tr:nth-child(n+4)').forEach((row) => row.remove())")
    settled(page)


def unfolded(page: Any) -> None:
    """Everything on the compare tab that can be unfolded."""
    for _ in range(12):
        closed = page.locator(".vl-main button.label-wrap:not(.open)")
        if not closed.count():
            break
        closed.first.click()
    settled(page)


def findings(page: Any) -> list[str]:
    """Serious and critical findings of axe-core, one line each."""
    violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]} {[check['message'][:160] for check in node['any'][:1]]}"
        for one in violations
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


LOOKS = [("light", 1440), ("dark", 390), ("dark", 1440), ("light", 390)]


def look(page: Any, number: int) -> None:
    """Give the page this scheme and width of `LOOKS`."""
    scheme, width = LOOKS[number % len(LOOKS)]
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", scheme == "dark")
    settled(page)


@pytest.mark.parametrize("first", [0, *(pytest.param(number, marks=SLOW) for number in range(1, len(LOOKS)))])
def test_axe_finds_nothing_serious(visit: Any, first: int) -> None:
    """Each tab in a look of its own; in all looks with the slow ones."""
    page = visit()
    compare(page)
    unfolded(page)
    look(page, first)
    assert findings(page) == []
    inspect(page)
    look(page, first + 1)
    assert findings(page) == []
    study(page)
    names = [consonant + "u" for consonant in "bdfghjklmnprstvz"]  # the deepest shade of every colour
    page.get_by_role("button", name="Edit").click()
    page.locator("#vs-text").fill(" ".join(names))
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.vs-text-row .vs-tile').length === 17")  # and the query's
    look(page, first + 2)
    assert findings(page) == []


FRAMES = """async () => {
  for (let frame = 0; frame < 5; frame++) await new Promise((painted) => requestAnimationFrame(painted));
}"""


def moved(page: Any) -> float:
    """The page's layout shift so far, as browsers sum it up."""
    return sum(value for value, _ in page.evaluate("window.shifts"))


@pytest.mark.parametrize("width", [pytest.param(1440, marks=SLOW), 390])
def test_nothing_moves_by_itself_and_at_most_one_timer_is_shown(app: SimpleNamespace, visit: Any, width: int) -> None:
    page = visit(width=width, script=WATCH)
    settled(page)
    assert moved(page) < 0.05, page.evaluate("window.shifts")
    with app.fake.word_by_word():
        page.locator("#vl-run").click()
        page.wait_for_selector("#vl-state i[data-running]", state="attached")
        page.evaluate(FRAMES)
        before = moved(page)  # a browser leaves out what follows a press, but for half a second only
    done(page)
    settled(page)
    assert moved(page) - before < 0.05, page.evaluate("window.shifts")
    inspect(page)
    assert page.evaluate("window.timers") <= 1
    before = moved(page)
    study(page)
    assert moved(page) - before < 0.05, page.evaluate("window.shifts.filter((s) => s[0] > 0.005)")


# controls of which a part is out of the window's width, or whose text is cut off without a sign of it
CUT_OFF = """() => {
  const bad = [], wide = document.documentElement.clientWidth;
  const strip = (node) => { // what scrolls sideways on purpose
    for (let n = node.parentElement; n; n = n.parentElement)
      if (/auto|scroll/.test(getComputedStyle(n).overflowX) && n.scrollWidth > n.clientWidth) return true;
    return false;
  };
  for (const node of document.querySelectorAll('button, input, textarea, [role=tab], h1, h2')) {
    const r = node.getBoundingClientRect();
    if (!node.checkVisibility({ opacityProperty: true }) || r.width < 3 || strip(node)) continue;
    const name = `${node.tagName} ${node.id || node.className} ${node.innerText?.slice(0, 30) ?? ''}`;
    if (r.left < -1 || r.right > wide + 1) bad.push(`outside: ${name}`);
    const style = getComputedStyle(node);
    const hides = style.overflowX !== 'visible' && style.textOverflow !== 'ellipsis' && node.matches('button, h1, h2');
    if (hides && node.scrollWidth > node.clientWidth + 2) bad.push(`cut: ${name}`);
  }
  for (const node of document.querySelectorAll('svg text')) {
    const [r, drawing] = [node, node.ownerSVGElement].map((one) => one.getBoundingClientRect());
    if (node.checkVisibility() && (r.left < drawing.left - 1 || r.right > drawing.right + 1))
      bad.push(`outside of its drawing: ${node.textContent}`);
  }
  return bad;
}"""

# controls that lie over each other, but for what floats above the page
OVER = """() => {
  const floats = (node) => {
    for (let n = node; n; n = n.parentElement) if (/fixed|sticky/.test(getComputedStyle(n).position)) return true;
    return false;
  };
  const nodes = [...document.querySelectorAll('button, input:not([type=file]), textarea, [role=tab]')].filter((node) =>
    node.checkVisibility({ opacityProperty: true }) && node.getBoundingClientRect().width > 3 && !floats(node));
  const found = [];
  for (let i = 0; i < nodes.length; i++) for (let j = i + 1; j < nodes.length; j++) {
    const [a, b] = [nodes[i], nodes[j]];
    if (a.contains(b) || b.contains(a)) continue;
    const [r, s] = [a.getBoundingClientRect(), b.getBoundingClientRect()];
    const across = Math.min(r.right, s.right) - Math.max(r.left, s.left);
    const along = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top);
    if (across <= 2 || along <= 2) continue;
    found.push([a, b].map((n) => `${n.tagName} ${n.id || n.className} ${n.innerText ?? ''}`).join(' / '));
  }
  return found;
}"""


@pytest.mark.parametrize("widths", [(390, 1280), pytest.param((768, 1440), marks=SLOW)])
def test_nothing_is_cut_off_or_covered_at_any_width(visit: Any, widths: tuple[int, int]) -> None:
    page = visit(width=widths[0])
    compare(page)
    page.locator("#vl-text textarea").fill("something else")  # where the answers are from stands above them, too
    page.wait_for_selector("#vl-belongs .vl-from")
    unfolded(page)
    for tab in ("Compare", "Inspect", "Study"):
        if tab != "Compare":
            {"Inspect": inspect, "Study": study}[tab](page)
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            settled(page)
            assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
            assert page.evaluate(CUT_OFF) == [], (tab, width)
            assert page.evaluate(NARROW) == [], (tab, width)
            assert page.evaluate(OVER) == [], (tab, width)


# paragraphs, and cells of tables, in a column too narrow for them
NARROW = """() => {
  const narrow = (nodes, letters, width) => [...document.querySelectorAll(nodes)].filter((node) =>
    node.checkVisibility() && node.innerText.length > letters && node.getBoundingClientRect().width < width);
  return [...narrow('p, li', 80, 140), ...narrow('th, td', 14, 45)]
    .map((node) => `${node.className} ${node.innerText.slice(0, 60)}`);
}"""


# what the Tab key is to reach: visible controls that are in its order, radio buttons but one of a group left out
REACHABLE = """() => {
  const groups = new Set();
  const all = [...document.querySelectorAll('a[href], button, input, textarea, summary, [tabindex]')];
  window.toReach = new Set(all.filter((node) => {
    if (node.disabled || node.tabIndex < 0 || !node.checkVisibility({ visibilityProperty: true })) return false;
    if (node.type !== 'radio') return true;
    const first = !groups.has(node.name);
    groups.add(node.name);
    return first && node.checked || node.checked;
  }));
  return window.toReach.size;
}"""
STEP = "() => { window.toReach.delete(document.activeElement); return window.toReach.size; }"
# what went away meanwhile, as a hint that an opened token takes the place of, is not missed
LEFT = """() => [...window.toReach].filter((node) => node.isConnected)
  .map((node) => `${node.tagName} ${node.id} ${node.className} ${node.innerText ?? ''}`)"""


@pytest.mark.parametrize("tab", ["Compare", *(pytest.param(tab, marks=SLOW) for tab in ("Inspect", "Study"))])
def test_the_keyboard_alone_reaches_everything_and_is_not_trapped(visit: Any, tab: str) -> None:
    page = visit()
    if tab == "Study":
        study(page)
    else:
        compare(page)
        unfolded(page)
    if tab == "Inspect":
        inspect(page)
    page.evaluate("document.activeElement.blur()")
    count = page.evaluate(REACHABLE)
    for _ in range(count + 40):
        page.keyboard.press("Tab")
        if not page.evaluate(STEP):
            break
    assert page.evaluate(LEFT) == []
