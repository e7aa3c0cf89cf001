// What the compare tab does without the server: errors beside their fields, arrow keys between examples, the button.
(() => {
  if (window.vlCompare) return;
  window.vlCompare = true;
  const one = (selector) => document.querySelector(selector);

  // An error that names a field stands beside it, and the field takes the focus.
  function placeError() {
    for (const old of document.querySelectorAll(".vl-field-error")) old.remove();
    for (const old of document.querySelectorAll(".vl-in-error")) {
      old.classList.remove("vl-in-error");
      old.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
    }
    const error = one("#vl-message [data-field]");
    const block = error && document.getElementById(error.dataset.field);
    if (!block) return;
    const fold = block.closest(".vl-settings, .vl-fold");
    const closed = fold?.querySelector(":scope > button:not(.open)");
    if (closed && !block.checkVisibility()) closed.click();
    const said = document.createElement("p");
    said.className = "vl-field-error";
    said.id = "vl-field-error";
    said.textContent = error.textContent;
    if (block.matches("button")) block.after(said); else block.append(said);
    block.classList.add("vl-in-error");
    error.hidden = true; // said once
    said.setAttribute("role", "alert");
    const field = block.matches("button") ? block : block.querySelector("input:not([type=file]), textarea, button");
    field?.setAttribute("aria-invalid", "true");
    field?.setAttribute("aria-describedby", "vl-field-error");
    setTimeout(() => field?.focus(), 50);
  }

  // From the press until the server speaks the comparison is pending: Stop takes it out of the queue.
  function pending(on) {
    const main = one(".vl-main");
    if (!main) return;
    const run = one("#vl-run"), stop = one("#vl-stop");
    const held = document.activeElement === run || document.activeElement === stop;
    if (on) main.dataset.pending = ""; else delete main.dataset.pending;
    if (held) setTimeout(() => [run, stop].find((button) => button.checkVisibility())?.focus(), 0);
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#vl-run")) pending(true);
  });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const example = event.target.closest?.(".vl-example");
    if (!example || !step) return;
    const all = [...example.parentElement.querySelectorAll(".vl-example")];
    const next = all[(all.indexOf(example) + step + all.length) % all.length];
    event.preventDefault();
    for (const other of all) other.tabIndex = other === next ? 0 : -1;
    next.focus();
  });

  // Answers that do not belong to the settings are not voted on.
  function lockVotes() {
    const votes = one(".vl-vote");
    if (votes) votes.inert = Boolean(one("#vl-belongs .vl-from"));
  }

  // gradio's number field turns "nothing" into 0, at a time of its own; where 0 means nothing, the placeholder says what
  // holds. What gradio writes into these fields passes through a property of their own, so that no moment is missed.
  const written = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value");
  function blankNumbers() {
    for (const input of document.querySelectorAll(".vl-settings input[type=number][placeholder]")) {
      const empty = (value) => String(value) === "0" && input.placeholder && input !== document.activeElement;
      if (!Object.hasOwn(input, "value"))
        Object.defineProperty(input, "value", {
          configurable: true,
          get: () => written.get.call(input),
          set: (value) => written.set.call(input, empty(value) ? "" : value),
        });
      if (empty(input.value)) input.value = "";
    }
  }
  document.addEventListener("focusout", (event) => {
    if (event.target.matches?.(".vl-settings input[type=number]")) setTimeout(blankNumbers); // the focus has left by then
  });

  // gradio's page works through each event's messages in a loop of its own, and a reply may take its time: what an older
  // event wrote may be shown last. Of a session's states the newest stays (see `views.state`), and the server is asked
  // for the other regions again. Returns whether this state stays.
  let newest = {};
  function keepNewest(state) {
    const shown = state.querySelector("i");
    const place = (data) => 2 * data.changes + !("running" in data);
    if (!shown || newest.dataset?.session !== shown.dataset.session || place(shown.dataset) >= place(newest.dataset)) {
      newest = shown?.cloneNode() ?? newest;
      return true;
    }
    for (const name of shown.getAttributeNames()) shown.removeAttribute(name);
    for (const { name, value } of newest.attributes) shown.setAttribute(name, value);
    window.vlChanges.changed("again");
    return false;
  }

  function watch() {
    const message = one("#vl-message"), state = one("#vl-state"), belongs = one("#vl-belongs");
    if (!message || !state || !belongs) return setTimeout(watch, 200);
    new MutationObserver(lockVotes).observe(belongs, { childList: true, subtree: true });
    lockVotes();
    const changes = { childList: true, subtree: true, attributes: true, characterData: true };
    new MutationObserver(() => { placeError(); if (one("#vl-message .vl-message-error")) pending(false); }).observe(message, { childList: true, subtree: true, characterData: true });
    const states = new MutationObserver(() => {
      if (!keepNewest(state)) return states.takeRecords();
      pending(false);
      blankNumbers();
    });
    keepNewest(state);
    states.observe(state, changes);
    const made = { childList: true, subtree: true, attributes: true, attributeFilter: ["placeholder"] };
    new MutationObserver(blankNumbers).observe(document.body, made); // the settings may be built later, or once more
    blankNumbers();
  }
  watch();
})();
