// The inspect tab's keys, and bringing an opened sample into view. Decides nothing: keys press the page's own buttons.
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
    if (!shown(byId("vi-table"))) return;
    if (event.key === "Escape" && writing(event.target)) { event.target.blur(); return; }
    if (writing(event.target)) return;
    if (event.key.startsWith("Arrow") && event.target.matches?.("input[type=radio]")) return;  // they choose among radios
    if (STEPS[event.key]) {
      event.preventDefault();
      button(STEPS[event.key])?.click();
    } else if (/^[1-9]$/.test(event.key)) {
      byId("vi-types")?.querySelectorAll("input[type=checkbox]")[Number(event.key) - 1]?.click();
    } else if (event.key === "n" || event.key === "/") {
      const found = field(event.key === "n" ? "vi-note-text" : "vi-text");
      if (found) { event.preventDefault(); found.focus(); }
    }
  });

  // which parts of a sample were unfolded stays so from one sample to the next
  const unfolded = new Set();
  document.addEventListener("toggle", (event) => {
    const name = event.target.dataset?.fold;
    if (name) event.target.open ? unfolded.add(name) : unfolded.delete(name);
  }, true);

  window.vlInspect = {
    shown() {
      const sample = document.querySelector("#vi-sample .vi-sample");
      if (!sample) return;
      for (const fold of sample.querySelectorAll("details[data-fold]")) fold.open = unfolded.has(fold.dataset.fold);
      document.querySelector("#vi-table .vi-current")?.scrollIntoView({ block: "nearest" });
      const detail = sample.closest(".vi-detail");
      const place = detail.getBoundingClientRect();
      const narrow = place.width > 0.8 * window.innerWidth;
      if (place.top < 0 || place.top > (narrow ? 0.5 : 0.65) * window.innerHeight) detail.scrollIntoView({ block: "start" });
    },
  };
})();
