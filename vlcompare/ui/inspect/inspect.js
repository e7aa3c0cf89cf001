// The inspect tab's keys, its small pictures, and the open sample beside its list or, on a narrow screen, over it.
// Decides nothing: keys press the page's own buttons.
(() => {
  if (window.vlInspect) return;
  const byId = (id) => document.getElementById(id);
  const shown = (node) => node && node.offsetParent !== null;
  const writing = (node) => node.closest?.("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable=true], [role=listbox], .vl-token, [role=tablist]");
  const button = (id) => (byId(id)?.matches("button") ? byId(id) : byId(id)?.querySelector("button"));
  const STEPS = { ArrowLeft: "vi-previous", k: "vi-previous", ArrowRight: "vi-next", j: "vi-next" };

  function field(id) {
    return byId(id)?.querySelector("textarea, input");
  }

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!shown(byId("vi-table")) && !sheet()) return;
    if (event.key === "Escape") pressed.length = 0;
    if (event.key === "Escape" && writing(event.target)) { event.target.blur(); return; }
    if (event.key === "Escape" && sheet()) { back(); return; }
    if (writing(event.target)) return;
    if (event.key.startsWith("Arrow") && event.target.matches?.("input[type=radio]")) return;  // they choose among radios
    if (!isShortcut(event.key) && !pressed.some(opensField)) return;
    if (event.key.length > 1 && !isShortcut(event.key)) return;
    event.preventDefault();
    if (!expected && !pressed.length) press(event.key);
    else if (pressed.length < MAX_PRESSED) pressed.push(event.key);
  });

  const opensField = (key) => key === "n" || key === "/";
  const isShortcut = (key) => STEPS[key] || /^[1-9]$/.test(key) || opensField(key);

  function press(key) {
    if (STEPS[key]) button(STEPS[key])?.click();
    else if (opensField(key)) field(key === "n" ? "vi-note-text" : "vi-text")?.focus();
    else byId("vi-types")?.querySelectorAll("input[type=checkbox]")[Number(key) - 1]?.click();
  }

  // ---- the note's form is of the open sample: while another is being opened it cannot be written into, and keys wait,
  // so that they mean the sample that the keys before them open
  const MAX_WAIT_MS = 10000, MAX_PRESSED = 40;
  let expected = 0, edits = 0, patience = null;
  const pressed = [];
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(".vi-page [data-pick], #vi-previous, #vi-next")) return;
    expected += 1;
    if (byId("vi-note")) byId("vi-note").inert = true;
    clearTimeout(patience);
    patience = setTimeout(() => { pressed.length = 0; release(); }, MAX_WAIT_MS);  // the connection is gone
  }, true);

  function release() {
    clearTimeout(patience);
    expected = 0;
    if (byId("vi-note")) byId("vi-note").inert = false;
    setTimeout(pressWaiting);  // once the form is drawn
  }

  function pressWaiting() {
    if (!pressed.length || expected) return;
    const key = pressed.shift();
    press(key);
    if (opensField(key)) write(document.activeElement, pressed.splice(0).filter((letter) => letter.length === 1).join(""));
    else setTimeout(pressWaiting);
  }

  function write(found, letters) {
    if (!letters || !writing(found)) return;
    found.setRangeText(letters, found.selectionStart, found.selectionEnd, "end");
    found.dispatchEvent(new Event("input", { bubbles: true }));
  }

  // which parts of a sample were unfolded stays so from one sample to the next
  const unfolded = new Set();
  document.addEventListener("toggle", (event) => {
    const name = event.target.dataset?.fold;
    if (name) event.target.open ? unfolded.add(name) : unfolded.delete(name);
  }, true);

  // ---- the sheet: on a narrow screen the open sample lies over its list, and Back, Escape or the browser's own Back
  // lead to the list again
  const narrow = window.matchMedia("(max-width: 900px)");
  const detail = () => document.querySelector(".vi-detail");
  const sheet = () => narrow.matches && detail()?.classList.contains("vi-sheet");
  let covered = [];
  let asked = false;  // whether what was pressed last opens a sample
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[data-pick^='row:'], #vi-previous, #vi-next")) asked = true;
    if (event.target.closest?.("#vi-ask") && sheet()) back();  // the other tab must not lie under the sheet
  }, true);

  function open() {
    const node = detail();
    if (node.classList.contains("vi-sheet")) return;
    node.classList.add("vi-sheet");
    node.setAttribute("role", "dialog");
    node.setAttribute("aria-modal", "true");
    node.setAttribute("aria-label", "The open sample");
    for (let inner = node; inner.parentElement && inner !== document.body; inner = inner.parentElement)
      for (const other of inner.parentElement.children)
        if (other !== inner && !other.inert) { other.inert = true; covered.push(other); }
    document.body.style.overflow = "hidden";
    history.pushState({ vlSheet: true }, "");
    button("vi-back")?.focus();
  }

  function close() {
    const node = detail();
    if (!node?.classList.contains("vi-sheet")) return;
    node.classList.remove("vi-sheet");
    for (const name of ["role", "aria-modal", "aria-label"]) node.removeAttribute(name);
    for (const other of covered) other.inert = false;
    covered = [];
    document.body.style.overflow = "";
    const current = document.querySelector("#vi-table .vi-current");
    current?.scrollIntoView({ block: "nearest" });
    current?.querySelector(".vi-open")?.focus({ preventScroll: true });
  }

  function back() {
    history.state?.vlSheet ? history.back() : close();
  }

  window.addEventListener("popstate", close);
  narrow.addEventListener("change", () => { if (!narrow.matches) back(); });

  // ---- small pictures: asked for once they come into view, a dozen at a time, and kept while the list is drawn anew
  const MAX_ASKED = 12, MAX_KEPT = 600, PATIENCE_MS = 2500;
  const kept = new Map();
  const wanted = new Set();
  let ask = null, waiting = null;

  function place(picture) {
    const found = kept.get(picture.dataset.thumb);
    if (found === undefined) return false;
    if (found.startsWith("data:image/webp;base64,")) picture.src = found;
    else picture.closest(".vi-thumb").textContent = "no picture";
    return true;
  }

  function send() {
    if (waiting || !wanted.size || !ask) return;
    const names = [...wanted].slice(0, MAX_ASKED);
    for (const name of names) wanted.delete(name);
    waiting = setTimeout(() => {  // no reply: the list was drawn anew meanwhile, or the server is busy
      waiting = null;
      for (const picture of document.querySelectorAll("#vi-table img[data-thumb]:not([src])"))
        if (names.includes(picture.dataset.thumb)) wanted.add(picture.dataset.thumb);
      send();
    }, PATIENCE_MS);
    ask(names);
  }

  window.vlInspect = {
    back,
    edit: () => ++edits,
    apply: (note, ...form) => {  // [what it is of, error types, own tags, text]
      const next = note ? JSON.parse(note) : form;
      return next[0] === form[0] ? form : next;
    },
    replied() {
      expected = Math.max(0, expected - 1);
      if (expected) return;
      if (byId("vi-message")?.textContent.trim()) pressed.length = 0;  // refused: nothing was opened
      release();
      window.vlInspect.shown();
    },
    watch(list, request) {
      ask = request;
      const seen = new IntersectionObserver((entries) => {
        for (const { target, isIntersecting } of entries)
          if (isIntersecting) {
            seen.unobserve(target);
            const picture = target.querySelector("img[data-thumb]");
            if (picture && !place(picture)) wanted.add(picture.dataset.thumb);
          }
        send();
      }, { rootMargin: "240px" });
      const look = () => {
        wanted.clear();
        seen.disconnect();
        for (const picture of list.querySelectorAll("img[data-thumb]:not([src])"))
          if (!place(picture)) seen.observe(picture.closest(".vi-thumb"));
      };
      // gradio draws a list anew in place: it takes away what was set here
      new MutationObserver(look).observe(list, { childList: true, subtree: true, attributes: true, attributeFilter: ["src", "data-thumb"] });
      look();
    },
    fill(found) {
      for (const [name, picture] of Object.entries(JSON.parse(found || "{}"))) kept.set(name, picture);
      for (const name of kept.keys()) if (kept.size > MAX_KEPT) kept.delete(name);
      for (const picture of document.querySelectorAll("#vi-table img[data-thumb]:not([src])")) place(picture);
      clearTimeout(waiting);
      waiting = null;
      send();
    },
    sliced() {  // what a slice changes most is the headline, which may be far above
      const place = byId("vi-headline")?.getBoundingClientRect();
      if (place && (place.top < 0 || place.top > window.innerHeight - 80)) byId("vi-headline").scrollIntoView({ block: "start" });
    },
    returned() {
      asked = true;
      setTimeout(() => window.vlInspect.shown(), 60);  // once the tab is there again
    },
    shown() {
      const sample = document.querySelector("#vi-sample .vi-sample");
      if (!sample || !asked) return;
      asked = false;
      for (const fold of sample.querySelectorAll("details[data-fold]")) fold.open = unfolded.has(fold.dataset.fold);
      if (narrow.matches) return open();
      document.querySelector("#vi-table .vi-current")?.scrollIntoView({ block: "nearest" });
      const place = detail().getBoundingClientRect();
      if (place.top < 0 || place.bottom > window.innerHeight) document.querySelector(".vi-work").scrollIntoView({ block: "start" });
    },
  };
})();
