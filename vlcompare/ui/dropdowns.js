// Drop-down lists by keyboard. gradio's combobox opens its list whenever it is focused, opens it again on the very Tab
// that leaves it, and drops the focus once something is chosen. Here a list opens by a click, an arrow key or typing,
// and the field keeps the focus afterwards.
(() => {
  if (window.vlDropdowns) return;
  window.vlDropdowns = true;
  const PASSING = new Set(["Tab", "Shift", "Control", "Alt", "Meta", "CapsLock"]); // keys that ask nothing of a list
  const isField = (node) => Boolean(node?.matches?.("input[role=combobox]"));
  let byPointer = false; // what was used last: a pointer opens the list, focus alone does not
  let chooses = null; // the field in which something is just being chosen
  let wasFocused = false; // the field that is pressed had the focus before

  function ofOption(option) {
    const list = option.closest("[role=listbox]");
    return list?.id ? document.querySelector(`input[aria-controls="${CSS.escape(list.id)}"]`) : null;
  }

  window.addEventListener("keydown", (event) => {
    byPointer = false;
    chooses = null;
    if (!isField(event.target)) return;
    if (PASSING.has(event.key)) event.stopPropagation();
    else if (event.key === "Enter") chooses = event.target;
  }, true);

  window.addEventListener("pointerdown", (event) => {
    byPointer = true;
    const option = event.target.closest?.("[role=option]");
    chooses = option ? ofOption(option) : null;
    wasFocused = isField(event.target) && document.activeElement === event.target;
  }, true);

  window.addEventListener("focus", (event) => {
    if (isField(event.target) && !byPointer) event.stopPropagation();
  }, true);

  window.addEventListener("blur", (event) => {
    const field = event.target;
    if (!isField(field) || field !== chooses) return;
    chooses = null;
    setTimeout(() => {
      if (document.activeElement !== document.body || !field.isConnected) return;
      byPointer = false;
      field.focus({ preventScroll: true });
    });
  }, true);

  // a list that was closed by a choice or by Escape opens again by a click on its field
  window.addEventListener("click", (event) => {
    const field = event.target;
    if (!isField(field) || !wasFocused || field.getAttribute("aria-expanded") === "true") return;
    field.blur();
    byPointer = true;
    field.focus({ preventScroll: true });
  }, true);
})();
