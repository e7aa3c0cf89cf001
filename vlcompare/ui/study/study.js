// The retrieval lab: tiles, the query, and what the models answer. It holds the sequence; answers come from the server.
// Text only ever goes in as text.
(() => {
  if (window.vlStudy) return;
  const CONSONANTS = "bdfghjklmnprstvz", VOWELS = "aeiou";
  const ORDINARY = 80; // as many names of two letters
  const SHORTEST = 2, LONGEST = 400;
  const MANY = 14; // more tiles have their number below their name, as on a narrow screen
  const SHAPES = { pythia: "●", mamba: "■", hybrid: "▲" };

  const nameOf = (symbol) => {
    const plain = symbol % ORDINARY;
    return CONSONANTS[Math.floor(plain / 5)] + VOWELS[plain % 5] + (symbol < ORDINARY ? "" : Math.floor(symbol / ORDINARY));
  };
  const colour = (symbol) => `hsl(${Math.floor((symbol % ORDINARY) / 5) * 22.5} 68% ${90 - 4 * (symbol % 5)}%)`;

  function make(tag, name, text) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function shuffled(count) {
    const all = [...Array(count).keys()];
    for (let i = count - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [all[i], all[j]] = [all[j], all[i]];
    }
    return all;
  }

  class Lab {
    constructor(root, round) {
      this.root = root;
      this.round = round;
      this.names = JSON.parse(root.dataset.names);
      this.known = ORDINARY;
      this.named = null; // the length that the models were trained at: they can name as many positions
      this.lengths = {}; // by order, the lengths at which there are models
      this.order = "query_last";
      this.sequence = shuffled(this.known).slice(0, Number(this.find("#vs-length").value));
      this.place = 3;
      this.waiting = false;
      this.untouched = true; // what is shown is what the page opened with
      this.cells = [];
      this.find(".vs-text-row").append(this.query = make("div", "vs-cell vs-query"));
      this.query.setAttribute("aria-hidden", "true");
      root.addEventListener("click", (event) => this.clicked(event));
      root.addEventListener("keydown", (event) => this.pressed(event));
      root.addEventListener("input", (event) => {
        if (event.target.id === "vs-length") this.resize(Number(event.target.value));
      });
      root.addEventListener("submit", (event) => {
        event.preventDefault();
        event.stopPropagation();
        this.edit(this.find("#vs-text").value);
      });
      this.draw();
    }

    find(selector) {
      return this.root.querySelector(selector);
    }

    // ---- what the user does

    clicked(event) {
      const order = event.target.closest("[data-order]");
      const trained = event.target.closest("[data-trained]");
      const tile = event.target.closest(".vs-tile[data-place]");
      const does = event.target.closest("[data-do]")?.dataset.do;
      if (order) this.turn(order.dataset.order);
      else if (trained) this.ask(Number(trained.dataset.trained));
      else if (tile) this.choose(Number(tile.dataset.place));
      else if (does === "shuffle") this.shuffle();
      else if (does === "change") this.change();
      else if (does === "edit") this.open(this.find(".vs-editor").hidden);
      else if (does === "round") this.run();
    }

    pressed(event) {
      const within = event.target.closest("[role=radiogroup]");
      if (!within || event.ctrlKey || event.altKey || event.metaKey) return;
      const radios = [...within.querySelectorAll("[role=radio]")];
      const at = radios.indexOf(event.target);
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const to = step ? (at + step + radios.length) % radios.length : { Home: 0, End: radios.length - 1 }[event.key];
      if (at < 0 || to === undefined) return;
      event.preventDefault();
      radios[to].focus();
      radios[to].click();
    }

    turn(order) {
      this.order = order;
      this.offer(this.lengths);
      this.changed();
    }

    ask(named) {
      this.named = named;
      this.resize(Math.min(named, this.known, LONGEST));
    }

    choose(place) {
      this.place = place;
      this.changed();
    }

    shuffle() {
      this.sequence = shuffled(this.known).slice(0, this.sequence.length);
      this.place = Math.floor(Math.random() * Math.min(this.named ?? Infinity, this.sequence.length));
      this.changed();
    }

    change() {
      const free = shuffled(this.known).find((symbol) => !this.sequence.includes(symbol));
      if (free === undefined) return this.say("Every tile that the models know stands in the sequence.");
      this.sequence[this.place] = free;
      this.changed();
    }

    resize(length) {
      const free = shuffled(this.known).filter((symbol) => !this.sequence.includes(symbol));
      this.sequence = [...this.sequence, ...free].slice(0, length);
      this.place = Math.min(this.place, length - 1);
      this.changed();
    }

    open(shown) {
      this.find(".vs-editor").hidden = !shown;
      this.find("[data-do=edit]").setAttribute("aria-expanded", String(shown));
      if (shown) this.find("#vs-text").focus();
    }

    edit(text) {
      const words = text.toLowerCase().split(/[\s,;]+/).filter(Boolean);
      const known = new Map([...Array(this.known).keys()].map((symbol) => [nameOf(symbol), symbol]));
      const odd = words.find((word) => !known.has(word));
      const twice = words.find((word, index) => words.indexOf(word) !== index);
      const wrong = odd !== undefined ? `There is no tile “${odd.slice(0, 20)}”: they are called ${nameOf(0)} to ${nameOf(this.known - 1)}.`
        : twice !== undefined ? `The tile “${twice}” stands twice: the models only learnt sequences in which every tile is another.`
        : words.length < SHORTEST || words.length > Math.min(this.known, LONGEST) ? `A sequence has ${SHORTEST} to ${Math.min(this.known, LONGEST)} tiles; this one has ${words.length}.` : "";
      this.find("#vs-wrong").textContent = wrong;
      if (wrong) return;
      this.sequence = words.map((word) => known.get(word));
      this.place = Math.min(this.place, words.length - 1);
      this.changed();
    }

    run() {
      this.find("[data-do=round]").setAttribute("aria-busy", "true");
      this.round({ length: this.sequence.length, order: this.order, trained: this.named, seed: Math.floor(Math.random() * 2 ** 31) });
    }

    // ---- what is shown

    changed() {
      this.untouched = false;
      this.draw();
      this.send();
    }

    // a plain request to the server's endpoint: going through the page's components would take longer than the models.
    // One at a time; what is there by then is asked once an answer is back
    async send() {
      if (this.waiting) return;
      this.waiting = true;
      this.stale = false;
      const request = { sequence: this.sequence, query: this.sequence[this.place], order: this.order, trained: this.named };
      let reply;
      try {
        reply = await answerTo(request);
      } catch {
        reply = { error: "The server does not answer: choose a tile to ask again." };
      }
      this.waiting = false;
      if (reply.known && reply.known !== this.known) this.know(reply.known);
      if (reply.lengths) this.offer(reply.lengths);
      if (this.untouched && this.begins(reply)) return;
      if (this.stale || request.trained !== this.named) this.send(); // other models are there than those which were asked
      else if (reply.error) this.fail(reply);
      else this.told(reply);
    }

    // the page opened before the models were known: it begins with an order that there are models of, at their length.
    // Whether that is to be asked first
    begins({ lengths, named }) {
      const order = lengths && Object.keys(lengths).find((one) => lengths[one].length);
      const other = order && !lengths[this.order].length, length = Math.min(named, this.known, LONGEST);
      if (other) this.turn(order);
      else if (named && length !== this.sequence.length) this.ask(named);
      else return false;
      this.untouched = other;
      return true;
    }

    // what was answered before is about something else
    fail({ error, whose }) {
      this.say(error);
      if (whose !== undefined) this.tell(whose);
      for (const node of this.root.querySelectorAll(".vs-answer")) {
        node.querySelector(".vs-said").textContent = "…";
        delete node.dataset.right;
      }
    }

    // other models may know fewer symbols than there were before the first answer, or more
    know(count) {
      this.known = count;
      this.find("#vs-length").max = Math.min(count, LONGEST);
      if (this.sequence.every((symbol) => symbol < count)) return;
      this.sequence = shuffled(count).slice(0, this.sequence.length);
      this.place = Math.min(this.place, this.sequence.length - 1);
      this.draw();
    }

    tell(whose) {
      const line = this.find(".vs-whose");
      line.textContent = whose;
      line.hidden = !whose;
    }

    // models of several lengths are there to be chosen; where the one that was is not among them, the server chooses
    offer(lengths) {
      this.lengths = lengths;
      const own = lengths[this.order] ?? [], place = this.find(".vs-trained"), group = place.querySelector("[role=radiogroup]");
      if (!own.includes(this.named)) this.named = null;
      place.hidden = own.length < 2;
      if (String(own) === group.dataset.lengths) return;
      group.dataset.lengths = own;
      group.replaceChildren(...own.map((length) => {
        const radio = make("button", "", String(length));
        radio.type = "button";
        radio.setAttribute("role", "radio");
        radio.dataset.trained = length;
        return radio;
      }));
      this.check("trained", this.named);
    }

    told({ named, whose, unlearnt, sides }) {
      this.named = named;
      this.tell([whose, unlearnt].filter(Boolean).join(" "));
      this.check("trained", named);
      this.show(sides);
    }

    // which of the radio buttons that say something is chosen; the keyboard reaches the first where none is
    check(what, value) {
      const radios = [...this.root.querySelectorAll(`[data-${what}]`)];
      const at = radios.findIndex((radio) => radio.dataset[what] === String(value));
      for (const [index, radio] of radios.entries()) {
        radio.setAttribute("aria-checked", String(index === at));
        radio.tabIndex = index === Math.max(at, 0) ? 0 : -1;
      }
    }

    say(text) {
      this.find(".vs-state [role=status]").textContent = text;
    }

    draw() {
      this.stale = true;
      const { sequence, place } = this, row = this.find(".vs-text-row");
      while (this.cells.length > sequence.length) this.cells.pop().cell.remove();
      while (this.cells.length < sequence.length) this.cells.push(this.cell(row));
      this.check("order", this.order);
      this.check("trained", this.named);
      sequence.forEach((symbol, index) => {
        const { cell, tile, bars, marks } = this.cells[index], chosen = index === place;
        tile.replaceChildren(nameOf(symbol), make("small", "", String(index + 1)));
        tile.style.background = colour(symbol);
        tile.dataset.place = index;
        tile.setAttribute("aria-label", `${nameOf(symbol)}, position ${index + 1}`);
        tile.setAttribute("aria-checked", String(chosen));
        tile.tabIndex = chosen ? 0 : -1;
        cell.classList.toggle("vs-unnamed", index >= (this.named ?? Infinity));
        bars.replaceChildren();
        marks.replaceChildren();
      });
      const chosen = make("span", "vs-tile", nameOf(sequence[place]));
      chosen.style.background = colour(sequence[place]);
      this.query.replaceChildren(chosen, make("small", "", "asked for"));
      this.query.style.order = this.order === "query_first" ? -1 : 1;
      this.query.classList.toggle("vs-first", this.order === "query_first");
      row.style.setProperty("--count", sequence.length + 1);
      row.classList.toggle("vs-many", sequence.length > MANY);
      this.find(".vs-length output").textContent = sequence.length;
      this.find("#vs-length").value = sequence.length;
      this.find("#vs-text").value = sequence.map(nameOf).join(" ");
      this.find("#vs-wrong").textContent = "";
      for (const answer of this.root.querySelectorAll(".vs-answer")) answer.classList.add("vs-old");
    }

    cell(row) {
      const cell = make("div", "vs-cell"), tile = make("button", "vs-tile"), bars = make("div", "vs-bars"), marks = make("div", "vs-marks");
      tile.type = "button";
      tile.setAttribute("role", "radio");
      bars.setAttribute("aria-hidden", "true");
      marks.setAttribute("aria-hidden", "true");
      cell.append(tile, bars, marks);
      row.append(cell);
      return { cell, tile, bars, marks };
    }

    show(sides) {
      for (const [index, { cell, bars, marks }] of this.cells.entries()) {
        const heights = [], points = [];
        for (const [family, answer] of Object.entries(sides)) {
          const bar = make("i"), share = answer.shares[index] ?? 0;
          bar.dataset.side = SIDES[family];
          bar.style.height = `${100 * share}%`;
          heights.push(bar);
          if (answer.position === index) {
            const mark = make("i", "", SHAPES[family]);
            mark.dataset.side = SIDES[family];
            points.push(mark);
          }
        }
        bars.replaceChildren(...heights);
        bars.title = Object.entries(sides).map(([family, answer]) => `${this.names[family]} ${percent(answer.shares[index] ?? 0)}`).join(", ");
        marks.replaceChildren(...points);
        cell.classList.toggle("vs-unnamed", index >= this.named);
      }
      for (const node of this.root.querySelectorAll(".vs-answer")) {
        const answer = sides[node.dataset.family];
        node.hidden = !answer;
        node.classList.remove("vs-old");
        if (answer) this.speak(node, answer);
      }
      const limits = this.limits();
      this.say(`${this.seen(sides)} ${limits}`.trim());
      this.find(".vs-reads").hidden = limits !== "";
    }

    seen(sides) {
      const families = Object.keys(sides), all = (list) => list.map((family) => this.names[family]).join(" and ");
      const right = families.filter((family) => sides[family].position === this.place);
      if (families.length === 1) return `${all(families)} points ${right.length ? "to the tile asked for" : "elsewhere"}.`;
      if (right.length === families.length) return "All of them point to the tile asked for.";
      if (!right.length) return "None of them points to the tile asked for.";
      return `${all(right)} ${right.length > 1 ? "point" : "points"} to the tile asked for, ${all(families.filter((family) => !right.includes(family)))} elsewhere.`;
    }

    speak(node, { position, shares }) {
      const said = node.querySelector(".vs-said"), right = position === this.place;
      node.dataset.right = right;
      if (position === null) return said.replaceChildren(make("b", "", "no position of this sequence"), make("span", "vs-verdict", "wrong"));
      const tile = make("span", "vs-tile vs-small", nameOf(this.sequence[position]));
      tile.style.background = colour(this.sequence[position]);
      said.replaceChildren(tile, make("b", "", `position ${position + 1}`), make("span", "vs-verdict", right ? "✓ right" : "✗ wrong"),
        make("span", "vl-muted", percent(shares[position])));
    }

    limits() {
      const { length } = this.sequence;
      if (this.place >= this.named)
        return `These models were trained at length ${this.named} and have a token for each of the first ${this.named} positions: they cannot name position ${this.place + 1}, so every answer is wrong.`;
      if (length > this.named)
        return `Longer than trained: at length ${this.named}. Positions from ${this.named + 1} on, hatched, have no token that the models could answer with; the first ${this.named} can be asked for.`;
      return length < this.named ? `Shorter than trained: at length ${this.named}.` : "";
    }
  }

  const SIDES = { pythia: "left", mamba: "right", hybrid: "hybrid" };
  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

  async function answerTo(request) {
    const root = String(window.gradio_config?.root ?? window.location.origin).replace(/\/$/, "");
    const reply = await fetch(`${root}/gradio_api/run/study_ask`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ data: [request], session_hash: "study" }), // without one, gradio copies the whole page for each call
      signal: AbortSignal.timeout(60000),
    });
    const { data, error } = await reply.json();
    return data?.[0] ?? { error: error ?? "The server has no answer: try again in a while." };
  }

  // on the phone, what is folded
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".vs-unfold"), part = button?.closest("[data-folded]");
    if (!part) return;
    const folded = part.dataset.folded !== "true";
    part.dataset.folded = String(folded);
    button.setAttribute("aria-expanded", String(!folded));
  });

  let lab = null, opened = false; // the tab's event may come before or after its component; models are loaded by the first request

  window.vlStudy = {
    lab(element, round) {
      lab = new Lab(element.querySelector(".vs-lab"), round);
      if (opened) lab.send();
    },
    shown() {
      if (!opened) lab?.send();
      opened = true;
    },
    rounded() {
      lab?.find("[data-do=round]").removeAttribute("aria-busy");
    },
  };
})();
