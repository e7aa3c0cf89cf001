// What follows from several fields is asked for once for all that change together, and one request at a time: whatever
// changes meanwhile is asked about once the reply is there. gradio alone would send a request for each of the fields, and
// show the replies in the order in which they arrive, an older one over a newer.
(() => {
  if (window.vlChanges) return;
  const requests = new Map(); // name -> what sends its request, once that part of the page is there
  const states = new Map(); // name -> "soon": about to be sent; "sent"; "again": sent, and something has changed since

  function send(name) {
    const request = requests.get(name);
    if (!request) return setTimeout(() => send(name), 100);
    states.set(name, "sent");
    request();
  }

  window.vlChanges = {
    follow: (name, request) => requests.set(name, request),
    changed(name) {
      const state = states.get(name);
      if (state === "sent") states.set(name, "again");
      if (state) return;
      states.set(name, "soon");
      setTimeout(() => send(name));
    },
    replied(name) {
      const again = states.get(name) === "again";
      states.delete(name);
      if (again) this.changed(name);
    },
  };
})();
