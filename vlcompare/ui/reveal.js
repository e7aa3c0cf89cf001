// The page is shown at once and whole: gradio builds it piece by piece as its parts are loaded, and every piece would push
// the others about. Until what was asked for is there, or for some seconds at most, the tabs are kept out of sight.
(() => {
  const PATIENCE = 5000; // ms
  const page = document.documentElement;
  const began = performance.now();
  page.classList.add("vl-building");

  function ready() {
    if (performance.now() - began > PATIENCE) return true;
    if (document.querySelector(".vl-tabs [role=tab][aria-selected=true]")?.textContent.trim() === "Inspect")
      return document.querySelector(".vl-title") && document.getElementById("vi-runs") && document.getElementById("vi-dimension");
    if (document.querySelector(".vl-tabs [role=tab][aria-selected=true]")?.textContent.trim() === "Study")
      return document.querySelector(".vl-title") && document.querySelector("#vs-lab .vs-lab");
    if (document.querySelector("#vl-state [data-built]")) return false; // what is pressed now would be overwritten
    return document.querySelector("#vl-link textarea, #vl-link input")?.value.startsWith("http"); // written last
  }

  function look() {
    if (!ready()) return setTimeout(look, 30);
    page.classList.remove("vl-building");
  }
  look();
})();
