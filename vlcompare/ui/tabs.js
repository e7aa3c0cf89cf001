// The page's tabs by keyboard, as WAI-ARIA's pattern has them: one stop of Tab, arrow keys, Home and End move between
// them and show what they lead to. gradio's own tabs have neither.
(() => {
  if (window.vlTabs) return;
  window.vlTabs = true;
  const tabsOf = (list) => [...list.querySelectorAll("[role=tab]:not([aria-disabled=true])")];

  function rove(list) {
    for (const tab of tabsOf(list)) {
      const index = tab.getAttribute("aria-selected") === "true" ? 0 : -1;
      if (tab.tabIndex !== index) tab.tabIndex = index;
    }
  }

  document.addEventListener("keydown", (event) => {
    const tab = event.target.closest?.("[role=tab]");
    const list = tab?.closest("[role=tablist]");
    if (!list || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = tabsOf(list), here = all.indexOf(tab);
    const wanted = {
      ArrowRight: all[(here + 1) % all.length], ArrowLeft: all[(here - 1 + all.length) % all.length],
      Home: all[0], End: all[all.length - 1],
    }[event.key];
    if (!wanted) return;
    event.preventDefault();
    wanted.focus();
    wanted.click();
  });

  // a button that leads to another tab names it
  document.addEventListener("click", (event) => {
    const wanted = event.target.closest?.("[data-tab]")?.dataset.tab;
    const tab = wanted && [...document.querySelectorAll(".vl-tabs [role=tab]")].find((one) => one.textContent.trim() === wanted);
    if (!tab) return;
    tab.click();
    tab.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  });

  function watch() {
    const list = document.querySelector(".vl-tabs [role=tablist]");
    if (!list) return setTimeout(watch, 200);
    new MutationObserver(() => rove(list)).observe(list, { childList: true, subtree: true, attributes: true, attributeFilter: ["aria-selected"] });
    rove(list);
  }
  watch();
})();
