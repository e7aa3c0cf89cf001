// What the page does without the server: looking at tokens, linking phrases with boxes. Text only ever goes in as text.
(() => {
  if (window.vlcompare) return;
  window.vlcompare = true;
  const side = (node) => node.closest("[data-side]")?.dataset.side;
  // what matches a selector and is of the same side, in the same tab
  function alike(node, selector) {
    const tab = node.closest("[role=tabpanel]") ?? document;
    return [...tab.querySelectorAll(selector)].filter((other) => side(other) === side(node));
  }

  function make(tag, name, text) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // what is chosen of each answer stays chosen when its panel is drawn anew
  const choices = new Map();

  // Show a token's details. own: the visitor has just chosen it; only then they are announced. The boxes that it might
  // have been are drawn on the pictures for a choice of the visitor's.
  function inspect(token, own = true) {
    const panel = token.closest(".vl-token-panel");
    if (own && panel.dataset.answer) choices.set(panel.dataset.answer, token.dataset.token);
    for (const other of panel.querySelectorAll(".vl-token")) {
      other.classList.toggle("vl-chosen", other === token);
      other.tabIndex = other === token ? 0 : -1;
    }
    const box = panel.querySelector(".vl-inspect");
    const data = token.dataset;
    const head = make("div");
    head.append(make("b", "", token.textContent), ` · token ${Number(data.token) + 1} · id ${data.id} · ${data.ms} · ${data.p} %`);
    const list = make("ol");
    for (const [text, share] of JSON.parse(data.top || "[]")) {
      const row = make("li");
      const bar = make("span", "vl-share");
      bar.style.width = `${100 * share}%`;
      row.append(make("code", "", text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "·")), bar, make("span", "", `${(100 * share).toFixed(1)} %`));
      list.append(row);
    }
    box.ariaLive = own ? "polite" : "off";
    box.replaceChildren(head, list);
    if (!choices.has(panel.dataset.answer)) return;
    for (const alternative of alike(token, ".vl-alt"))
      alternative.classList.toggle("vl-on", alternative.dataset.token === data.token);
  }

  // Open what the visitor chose of a panel's answer, else its least probable token; only the panel may scroll to it.
  function openToken(place) {
    const panel = place.querySelector(".vl-token-panel[data-answer]");
    const index = choices.get(panel?.dataset.answer) ?? panel?.dataset.least;
    const token = index !== undefined && panel.querySelector(`.vl-token[data-token="${index}"]`);
    if (!token || token.matches(".vl-chosen") && panel.querySelector(".vl-inspect ol")) return;
    inspect(token, false);
    const list = token.parentElement;
    list.scrollTop = Math.max(0, token.offsetTop - list.offsetTop + token.offsetHeight - list.clientHeight);
  }

  function watch(name) {
    const place = document.getElementById(`vl-${name}-tokens`);
    if (!place) return setTimeout(() => watch(name), 200);
    new MutationObserver(() => openToken(place)).observe(place, { childList: true, subtree: true });
    openToken(place);
  }
  watch("left");
  watch("right");

  // The run that is shown is in sight in its list, however far this was scrolled; the page itself stays where it is.
  function watchRuns() {
    const place = document.getElementById("vl-history");
    if (!place) return setTimeout(watchRuns, 200);
    new MutationObserver(() => {
      const shown = place.querySelector(".vl-history-item[aria-pressed='true']");
      const list = shown?.parentElement;
      if (!list) return;
      const start = shown.offsetLeft - list.offsetLeft - 3;
      const end = start + shown.offsetWidth + 29 - list.clientWidth;  // the list fades out at its end
      if (list.scrollLeft > start || list.scrollLeft < end) list.scrollLeft = Math.min(start, Math.max(end, 0));
    }).observe(place, { childList: true, subtree: true, attributes: true, attributeFilter: ["aria-pressed"] });
  }
  watchRuns();

  function light(node, on) {
    const index = node.dataset.box;
    for (const other of alike(node, "[data-box]")) {
      other.classList.toggle("vl-lit", on && other.dataset.box === index);
      if (other.classList.contains("vl-box")) other.classList.toggle("vl-dim", on && other.dataset.box !== index);
    }
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#vl-run, #vl-follow, #vl-three") && window.innerWidth <= 1100)
      setTimeout(() => document.getElementById("vl-asked")?.scrollIntoView({ behavior: "smooth", block: "start" }), 120);
    const token = event.target.closest?.(".vl-token");
    if (token) inspect(token);
  });
  document.addEventListener("focusin", (event) => {
    if (event.target.matches?.(".vl-token:focus-visible")) inspect(event.target);
  });
  document.addEventListener("keydown", (event) => {
    const token = event.target.closest?.(".vl-token");
    if (!token || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...token.closest(".vl-tokens").querySelectorAll(".vl-token")];
    const here = all.indexOf(token);
    const next = { ArrowRight: all[here + 1], ArrowLeft: all[here - 1], Home: all[0], End: all.at(-1) }[event.key];
    if (next) { event.preventDefault(); next.focus(); inspect(next); }
  });
  document.addEventListener("pointerover", (event) => {
    const node = event.target.closest?.("[data-box]");
    if (node) light(node, true);
  });
  document.addEventListener("pointerout", (event) => {
    const node = event.target.closest?.("[data-box]");
    if (node) light(node, false);
  });
})();
