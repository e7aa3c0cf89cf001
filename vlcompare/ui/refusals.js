// What the server refuses of an event without a queue is shown here: gradio's page shows errors of queued events alone.
(() => {
  if (window.vlRefusals) return;
  window.vlRefusals = true;
  const real = window.fetch;

  function show(sentence) {
    document.querySelector(".vl-refusal")?.remove();
    const shown = document.createElement("div");
    const close = document.createElement("button");
    shown.className = "vl-refusal";
    shown.role = "alert";
    close.type = "button";
    close.ariaLabel = "Close";
    close.textContent = "×";
    close.onclick = () => shown.remove();
    document.body.append(shown);
    shown.append(sentence, close);
    setTimeout(() => shown.remove(), 10_000);
  }

  window.fetch = async (...given) => {
    const reply = await real(...given);
    if (reply.status >= 400 && /gradio_api\/run\/predict/.test(given[0]?.url ?? given[0])) {
      const plain = reply.headers.get("content-type")?.startsWith("text/plain");
      const told = await (plain ? reply.clone().text() : reply.clone().json().then((body) => body?.error)).catch(() => "");
      if (typeof told === "string" && told) show(told);
    }
    return reply;
  };
})();
