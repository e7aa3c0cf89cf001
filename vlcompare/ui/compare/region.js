// Marks regions on the picture: a drag from corner to corner, or a click on each of two corners, writes the box into the
// field of the region, or adds it to the boxes to choose from. What the fields hold is drawn over the picture.
(() => {
  if (window.vlRegion) return;
  window.vlRegion = true;
  const LEAST = 5; // px that a drag is long; less is a click
  let layer = null, drag = null, corner = null, drawn = "";

  const root = () => document.getElementById("vl-picture");
  const image = () => root()?.querySelector("img");
  const field = (id) => document.querySelector(`#${id} textarea, #${id} input`);

  // the field that a marked box goes to: null where the task takes none
  function target() {
    if (field("vl-box-text")) return { input: field("vl-box-text"), several: false };
    if (document.querySelector("#vl-choices.vl-boxes")) return { input: field("vl-choices"), several: true };
    return null;
  }

  // where the picture itself is on the screen, inside of an element that may be wider or higher
  function frame(img) {
    const at = img.getBoundingClientRect();
    if (!img.naturalWidth || !at.width) return null;
    const fit = getComputedStyle(img).objectFit;
    const contained = Math.min(at.width / img.naturalWidth, at.height / img.naturalHeight);
    const scale = { contain: contained, "scale-down": Math.min(1, contained) }[fit];
    const width = scale ? scale * img.naturalWidth : at.width;
    const height = scale ? scale * img.naturalHeight : at.height;
    return { left: at.left + (at.width - width) / 2, top: at.top + (at.height - height) / 2, width, height };
  }

  const within = (value) => Math.min(1, Math.max(0, value));

  function point(event) {
    const at = frame(image());
    return at && { x: within((event.clientX - at.left) / at.width), y: within((event.clientY - at.top) / at.height) };
  }

  const boxOf = (a, b) => [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
  const written = (box) => box.map((value) => value.toFixed(2)).join(", ");

  function read(line) {
    const numbers = line.replace(/[[\]()]/g, " ").split(/[\s,;]+/).filter(Boolean).map(Number);
    const good = numbers.length === 4 && numbers.every((value) => value >= 0 && value <= 1);
    return good && numbers[2] > numbers[0] && numbers[3] > numbers[1] ? numbers : null;
  }

  function write(box) {
    const { input, several } = target();
    const text = written(box);
    if (!read(text)) return;
    const kept = several ? input.value.split("\n").filter(read) : [];
    input.value = [...kept, text].join("\n");
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function mark(box, at, origin, name, kind) {
    const node = document.createElement("div");
    node.className = `vl-mark ${kind}`;
    node.style.left = `${at.left - origin.left + box[0] * at.width}px`;
    node.style.top = `${at.top - origin.top + box[1] * at.height}px`;
    node.style.width = `${(box[2] - box[0]) * at.width}px`;
    node.style.height = `${(box[3] - box[1]) * at.height}px`;
    if (name) {
      const badge = document.createElement("span");
      badge.textContent = name;
      node.append(badge);
    }
    return node;
  }

  function draw() {
    const img = image(), to = img && target();
    root()?.classList.toggle("vl-marking", Boolean(to));
    if (!to) { corner = drag = null; drawn = ""; layer?.remove(); return; }
    const at = frame(img);
    if (!at) return;
    const origin = root().getBoundingClientRect();
    const parts = [at.left - origin.left, at.top - origin.top, at.width, at.height].map(Math.round);
    const state = JSON.stringify([parts, img.src.length, to.several, to.input.value, drag, corner]);
    if (state === drawn && layer?.isConnected) return;
    drawn = state;
    if (!layer?.isConnected) {
      layer = document.createElement("div");
      layer.className = "vl-marks";
      root().append(layer);
    }
    const lines = to.several ? to.input.value.split("\n") : [to.input.value];
    const boxes = lines.map(read).filter(Boolean);
    const nodes = boxes.map((box, index) =>
      mark(box, at, origin, to.several ? String.fromCharCode(65 + index) : "", drag && !to.several ? "vl-mark-old" : ""));
    if (drag?.moved) nodes.push(mark(boxOf(drag.from, drag.to), at, origin, "", "vl-mark-new"));
    if (corner) nodes.push(mark([corner.x, corner.y, corner.x, corner.y], at, origin, "", "vl-mark-corner"));
    const hint = document.createElement("p");
    hint.className = "vl-mark-hint";
    const first = to.several ? "Drag to draw a box" : "Drag to mark the region";
    hint.textContent = corner ? "Now click the opposite corner" : boxes.length || drag?.moved ? "" : first;
    layer.replaceChildren(...nodes, hint);
  }

  document.addEventListener("pointerdown", (event) => {
    const img = image();
    if (!img || !event.isPrimary || event.button !== 0 || !root().contains(event.target) || !target()) return;
    if (event.target.closest("button, a, input, label")) return;
    const from = point(event);
    if (from) drag = { from, to: from, x: event.clientX, y: event.clientY, moved: false, id: event.pointerId };
  }, true);
  document.addEventListener("pointermove", (event) => {
    if (!drag || event.pointerId !== drag.id || !image()) return;
    drag.to = point(event) ?? drag.to;
    drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) >= LEAST;
    if (drag.moved) draw();
  }, true);
  document.addEventListener("pointerup", (event) => {
    if (!drag || event.pointerId !== drag.id) return;
    const { from, to, moved } = drag;
    drag = null;
    if (!image() || !target()) return draw();
    if (moved) { write(boxOf(from, to)); corner = null; }
    else if (corner) { write(boxOf(corner, from)); corner = null; }
    else corner = from;
    draw();
  }, true);
  document.addEventListener("pointercancel", () => { drag = null; draw(); }, true);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !(drag || corner)) return;
    drag = corner = null;
    draw();
  });

  // a browser drags pictures by itself, and gradio takes whatever is dropped without a file as "no picture"
  document.addEventListener("dragstart", (event) => {
    if (event.target.matches?.("img")) event.preventDefault();
  });
  for (const kind of ["dragenter", "dragover", "drop"])
    document.addEventListener(kind, (event) => {
      if (!root()?.contains(event.target) || event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.stopPropagation();
    }, true);

  document.addEventListener("load", (event) => { if (event.target === image()) { corner = null; draw(); } }, true);
  window.addEventListener("resize", draw);
  document.addEventListener("input", draw);
  setInterval(draw, 250); // fields are also filled in by the server, and parts of the page move: no event tells
})();
