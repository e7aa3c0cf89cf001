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
      const told = await reply.clone().json().catch(() => null);
      if (typeof told?.error === "string") show(told.error);
    }
    return reply;
  };
})();
