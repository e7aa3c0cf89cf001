// The page is shown at once and whole: gradio builds it piece by piece as its parts are loaded, and every piece would push
// the others about. Until what was asked for is there, or nothing new has come for some seconds, the tabs are kept out of
// sight.
(() => {
  const PATIENCE = 5000, LONGEST = 30000; // ms: without anything new, and in all
  const page = document.documentElement;
  const began = performance.now();
  let newest = began;
  const news = new MutationObserver(() => { newest = performance.now(); });
  news.observe(page, { childList: true, subtree: true });
  page.classList.add("vl-building");

  function ready() {
    const now = performance.now();
    if (now - newest > PATIENCE || now - began > LONGEST) return true;
    if (document.querySelector(".vl-tabs [role=tab][aria-selected=true]")?.textContent.trim() === "Inspect")
      return document.querySelector(".vl-title") && document.getElementById("vi-runs") && document.getElementById("vi-dimension");
    if (document.querySelector(".vl-tabs [role=tab][aria-selected=true]")?.textContent.trim() === "Study")
      return document.querySelector(".vl-title") && document.querySelector("#vs-lab .vs-lab");
    if (document.querySelector("#vl-state [data-built]")) return false; // what is pressed now would be overwritten
    return document.querySelector("#vl-link textarea, #vl-link input")?.value.startsWith("http"); // written last
  }

  function look() {
    if (!ready()) return setTimeout(look, 30);
    news.disconnect();
    page.classList.remove("vl-building");
  }
  look();
})();
