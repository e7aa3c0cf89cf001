// Explains a term where it stands: a button of class vl-term shows its sentence while it is pointed at or focused, and
// until the next tap or Escape once it is pressed. One bubble for the page, kept inside the window.
(() => {
  if (window.vlTerms) return;
  window.vlTerms = true;
  const MARGIN = 8, PATIENCE = 120; // px; ms in which the pointer may cross from the term to its bubble
  let bubble, shown = null, pressed = false, leaving = 0;

  function place() {
    if (!shown) return;
    const at = shown.getBoundingClientRect();
    if (!shown.isConnected || !at.width || at.bottom < 0 || at.top > innerHeight) return hide();
    const width = document.documentElement.clientWidth;
    const { offsetWidth, offsetHeight } = bubble;
    const left = Math.min(Math.max(at.left + at.width / 2 - offsetWidth / 2, MARGIN), width - offsetWidth - MARGIN);
    const below = at.bottom + 6, above = at.top - 6 - offsetHeight;
    bubble.style.left = `${Math.max(MARGIN, left)}px`;
    bubble.style.top = `${below + offsetHeight > innerHeight - MARGIN && above >= MARGIN ? above : below}px`;
  }

  function show(term) {
    clearTimeout(leaving);
    if (shown === term) return;
    hide();
    if (!bubble?.isConnected) {
      bubble = document.createElement("div");
      bubble.id = "vl-bubble";
      bubble.setAttribute("role", "tooltip");
      bubble.addEventListener("pointerenter", () => clearTimeout(leaving));
      bubble.addEventListener("pointerleave", leave);
      // inside of the app, whose colours it takes
      (document.querySelector(".gradio-container") ?? document.body).append(bubble);
    }
    bubble.textContent = term.dataset.explain;
    bubble.hidden = false;
    term.setAttribute("aria-describedby", bubble.id);
    shown = term;
    place();
  }

  function hide() {
    clearTimeout(leaving);
    shown?.removeAttribute("aria-describedby");
    shown = null;
    pressed = false;
    if (bubble) bubble.hidden = true;
  }

  function leave() {
    clearTimeout(leaving);
    if (!pressed && shown !== document.activeElement) leaving = setTimeout(hide, PATIENCE);
  }

  const term = (node) => node?.closest?.(".vl-term");

  document.addEventListener("pointerover", (event) => {
    const over = term(event.target);
    if (over && event.pointerType === "mouse" && !pressed) show(over);
  });
  document.addEventListener("pointerout", (event) => {
    const out = term(event.target);
    if (out && out === shown && !out.contains(event.relatedTarget)) leave();
  });
  document.addEventListener("focusin", (event) => {
    const focused = term(event.target);
    if (focused?.matches(":focus-visible")) show(focused);
  });
  document.addEventListener("focusout", (event) => {
    if (term(event.target) && term(event.target) === shown) hide();
  });
  document.addEventListener("click", (event) => {
    const one = term(event.target);
    if (!one) return bubble?.contains(event.target) ? undefined : hide();
    event.stopPropagation(); // the term may stand in what is a button for the mouse, as a table's head
    event.preventDefault();
    if (pressed && shown === one) return hide();
    show(one);
    pressed = true;
  }, true);
  window.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !shown) return;
    event.stopPropagation();
    hide();
  }, true);
  window.addEventListener("scroll", place, { passive: true, capture: true });
  window.addEventListener("resize", place);

  // gradio's labels are plain text: those of some fields get a mark of their own, whenever they are (again) there
  function markFields() {
    for (const [id, [name, sentence]] of Object.entries(window.vlFieldTerms ?? {})) {
      const block = document.getElementById(id);
      if (!block?.checkVisibility() || block.querySelector(".vl-term-mark")) continue;
      const mark = document.createElement("button");
      mark.type = "button";
      mark.className = "vl-term vl-term-mark";
      mark.textContent = "?";
      mark.setAttribute("aria-label", `What is this: ${name}`);
      mark.dataset.explain = sentence;
      const label = block.querySelector("[data-testid=block-info]");
      const seen = label?.getBoundingClientRect().width > 2; // else it is there for screen readers alone
      (seen ? label : block.querySelector(".wrap:has(label)") ?? block).append(mark);
    }
  }

  setInterval(() => {
    markFields();
    if (shown && !shown.isConnected) hide(); // what is updated in place loses its terms, and the bubble goes with them
  }, 300);
})();
