// The page: it keeps the state, computes answers and draws them, and offers window.explorer.

class App {
  constructor(runs) {
    this.runs = Object.fromEntries(runs.map((run) => [run.name, prepared(run)]));
    this.state = new State(this.runs);
    this.turn = 0;  // counts changes: what was begun before the last one gives up
    this.passes = new Map();  // kept: those without edits
    this.allGrids = new Set();  // the chosen cell is outlined in each
    this.problems = this.state.take(location.hash.slice(1));
    this.panels = { easy: new EasyFirst(this), attention: new AttentionMaps(this), lens: new Lens(this),
                    edit: new Edits(this), words: new Words(this) };
    this.buildControls();
    this.buildPanels();
    this.refresh();
    this.say(this.problems.join(" "));
    addEventListener("hashchange", () => this.follow());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.refresh());
  }

  get run() { return this.runs[this.state.run]; }

  say(text) { byId("message").textContent = text; }

  /** Lets the page paint and take input before what comes next. A message is not held up as setTimeout is (by 4 ms). */
  pause() {
    return new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = resolve;
      port2.postMessage(0);
    });
  }

  // Controls

  buildControls() {
    const { state } = this, names = state.names;
    byId("run").append(...names.map((name) => new Option(name)));
    byId("run").onchange = (event) => this.chooseRun(event.target.value);
    byId("beside").onchange = (event) => { state.beside = event.target.value; this.refresh(); };
    byId("beside").append(new Option("none", ""), new Option("untrained"), ...names.map((name) => new Option(name)));
    byId("close-hint").onclick = () => { byId("hint").hidden = true; };
    const change = (tokens, mask) => { state.change(tokens, mask); this.refresh(); };
    const hide = (cells) => {
      const mask = [...state.mask];
      for (const cell of cells) mask[cell] = 1;
      change(state.tokens, mask);
      if (!cells.length) this.say("No whole object is to be seen on the board, so there is none to hide.");
    };
    const draw = (split) => {
      const tokens = this.run.boards.random(split);
      if (tokens) change(tokens, state.mask);
      else this.say("This data set holds no boards out.");
    };
    const actions = {
      "draw-test": () => draw("test"), "draw-train": () => draw("train"),
      "hide-random": () => change(state.tokens, state.mask.map(() => Number(Math.random() < 0.25))),
      "hide-patch": () => hide(this.run.boards.patchCells()),
      "hide-object": () => hide(this.run.boards.objectCells(state.tokens, state.cell)),
      "show-all": () => change(state.tokens, state.mask.map(() => 0)),
      clear: () => change(state.tokens.map(() => this.run.boards.background(state.tokens)), state.mask.map(() => 0)),
      undo: () => { state.undo(); this.refresh(); }, redo: () => { state.redo(); this.refresh(); },
      "copy-python": () => copyText("Python", asPython(state)),
      "copy-json": () => copyText("JSON", JSON.stringify(this.summary(), null, 1)),
      "copy-link": () => copyText("Link", `${location.href.split("#")[0]}#${state.fragment()}`),
      "save-png": () => this.savePicture(),
      "dialog-close": () => byId("dialog").close(),
    };
    for (const [id, act] of Object.entries(actions)) byId(id).onclick = () => { this.say(""); act(); };
    document.addEventListener("keydown", (event) => {
      if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches("input, textarea")) return;
      actions[event.shiftKey ? "redo" : "undo"]();
      event.preventDefault();
    });
    byId("token").onchange = () => { this.chooseTool("paint"); };
    byId("stamp").onchange = () => { this.chooseTool("stamp"); };
    this.fitControls();
  }

  chooseTool(name) { document.querySelector(`input[name="tool"][value="${name}"]`).checked = true; }

  /** What depends on the data set: tokens, objects, grids. */
  fitControls() {
    const { boards } = this.run, { data } = boards;
    this.fitted = data;
    byId("run").value = this.state.run;
    byId("beside").value = this.state.beside;
    byId("token").replaceChildren(...Array.from({ length: boards.hidden }, (_, token) => new Option(boards.tokenName(token), token)));
    byId("token").value = Math.min(boards.backgrounds, boards.hidden - 1);
    byId("stamp").replaceChildren(...data.roots.map((_, k) => new Option(`root ${k}`, `root ${k}`)),
      ...data.compositions.map((_, k) => new Option(`composite ${k}`, `composite ${k}`)));
    byId("draw-test").disabled = !data.rows.test.some((rows) => rows.length);
    const host = byId("boards");
    host.replaceChildren();
    const figure = (title, options) => {
      const node = host.appendChild(element("figure"));
      return this.smallGrid(node, title, options);
    };
    let stroke = 0;  // what a brush does is set by its first cell: hide, or show
    this.grids = {
      board: figure("Board", { drag: true, act: (cell, event, first = true) => {
        if (first) stroke = 1 - this.state.mask[cell];
        this.act(cell, stroke, first);
      } }),
      network: figure("Network"), observer: figure("Ideal observer"), difference: figure("Where they differ"),
    };
    this.grids.beside = null;
  }

  /** A titled grid in a figure: {grid, title, says}. Choosing a cell in it chooses that cell everywhere. */
  smallGrid(node, name, options = {}) {
    const title = element("h2", { textContent: name }), says = element("p", { className: "says" }), host = element("div");
    node.append(element("figcaption", {}, title), host, says);
    const choose = (cell) => this.chooseCell(cell);
    const grid = new Grid(host, this.run.boards.h, { title: name, act: choose, focus: choose, ...options });
    this.allGrids.add(grid);
    grid.select(this.state.cell);
    return { grid, title, says, node };
  }

  buildPanels() {
    for (const [name, panel] of Object.entries(this.panels)) {
      const host = element("div"), node = element("details", { id: `panel-${name}` },
        element("summary", {}, `${panel.title} `, element("span", { textContent: `— ${panel.hint}` })), host);
      panel.node = node;
      panel.host = host;
      node.open = this.state.open.has(name);
      node.addEventListener("toggle", () => {
        if (node.open === this.state.open.has(name)) return;
        if (node.open) this.state.open.add(name);
        else this.state.open.delete(name);
        if (node.open) this.drawPanel(name);
        this.keepLink();
      });
      byId("panels").append(node);
    }
    this.panels.words.node.hidden = !speakerOf(this.state);
  }

  drawPanel(name) {
    const panel = this.panels[name];
    if (panel.data !== this.fitted) {  // grids have the side of the run's boards
      panel.host.replaceChildren();
      panel.network = null;
      panel.build(panel.host);
      panel.data = this.fitted;
    }
    panel.draw();
  }

  // Changes

  /** What a click, a stroke or Enter does to a cell of the board. */
  act(cell, hidden, first) {
    const { state } = this, tool = document.querySelector('input[name="tool"]:checked').value;
    const tokens = [...state.tokens], mask = [...state.mask];
    state.cell = cell;
    if (tool === "hide" && mask[cell] !== hidden) {
      mask[cell] = hidden;
      state.change(tokens, mask);
    } else if (tool === "paint" && (tokens[cell] !== Number(byId("token").value) || mask[cell])) {
      tokens[cell] = Number(byId("token").value);
      mask[cell] = 0;
      state.change(tokens, mask);
    } else if (tool === "stamp" && first) {
      const [kind, number] = byId("stamp").value.split(" ");
      state.change(this.run.boards.stamped(tokens, { [kind]: Number(number) }, cell), mask);
    } else return this.chooseCell(cell);
    this.refresh();
  }

  chooseCell(cell) {
    this.state.cell = cell;
    this.drawCell();
    this.keepLink();
    this.drawLater(["attention", "lens", "edit", "words"]);
  }

  chooseRun(name) {
    this.state.choose(name);
    if (this.run.boards.data !== this.fitted) this.fitControls();
    this.panels.words.node.hidden = !speakerOf(this.state);
    this.refresh();
  }

  setEdits(edits) { this.state.edits = edits; this.refresh(); }

  setWords(words) { this.state.words = words; this.drawLater(["words"]); this.keepLink(); }

  drawDonor() {
    this.state.donor = this.run.boards.random("test") ?? this.run.boards.random("train");
    this.refresh();
  }

  exchangeDonor() {
    const { tokens, donor, mask } = this.state;
    this.state.change(donor, mask);
    this.state.donor = tokens;
    this.refresh();
  }

  /** Shows the view of a link that was followed within the page. */
  follow() {
    if (location.hash.slice(1) === this.link) return;
    const before = this.run.boards.data;
    this.state.run = this.state.names[0];
    this.state.beside = "";
    this.state.open = new Set();
    this.state.reset();
    const problems = this.state.take(location.hash.slice(1));
    if (this.run.boards.data !== before) this.fitControls();
    byId("run").value = this.state.run;
    byId("beside").value = this.state.beside;
    for (const [name, { node }] of Object.entries(this.panels)) node.open = this.state.open.has(name);
    this.refresh();
    this.say(problems.join(" "));
  }

  /** Writes the state into the fragment, a little later: browsers allow few such changes a second. */
  keepLink() {
    clearTimeout(this.linkTimer);
    this.linkTimer = setTimeout(() => {
      this.link = this.state.fragment();
      // in a notebook's frame a relative address would be one of the notebook; the fragment alone is safe
      if (location.href.startsWith("about:")) location.hash = this.link;
      else history.replaceState(null, "", `#${this.link}`);
    }, 300);
  }

  // Answers

  answers(logits, V) { return Array.from({ length: logits.length / V }, (_, t) => argmax(logits, t * V, V)); }

  /** The edits of the state, with the values that they put in. An edit that waits for means is left out. */
  edits() {
    return this.state.edits.flatMap(({ name, how, cells, head }) => {
      const value = this.valueOf(name, how);
      const chosen = cells && Uint8Array.from({ length: this.run.sizes.T }, (_, t) => Number(cells.includes(t)));
      return value ? [{ name, value, cells: chosen, head }] : [];
    });
  }

  valueOf(name, how) {
    if (how === "zero") return new Float64Array(this.clean().acts.get(name).length);
    if (how === "donor") return this.donorPass().acts.get(name);
    if (!this.run.means) this.takeMeans(this.run);
    return this.run.means?.get(name);
  }

  /** The pass without edits, and the donor's: computed once a board. */
  clean() { return this.kept("clean", this.state.masked); }

  donorPass() { return this.kept("donor", this.run.boards.masked(this.state.donor, this.state.mask)); }

  kept(name, tokens) {
    const key = `${this.state.run}|${tokens}`;
    if (this.passes.get(name)?.key !== key) this.passes.set(name, { key, pass: this.run.network.forward(tokens) });
    return this.passes.get(name).pass;
  }

  /** Mean activations over the reference boards, one board a task; then the page is drawn again. */
  async takeMeans(run) {
    if (run.takingMeans) return;
    run.takingMeans = true;
    const { boards, masks } = run.data.reference, sums = new Map();
    for (const [k, tokens] of boards.entries()) {
      for (const [name, x] of run.network.forward(run.boards.masked(tokens, masks[k])).acts) {
        const sum = sums.get(name) ?? new Float64Array(x.length);
        for (let i = 0; i < x.length; i++) sum[i] += x[i] / boards.length;
        sums.set(name, sum);
      }
      this.say(`Mean activations: ${k + 1} of ${boards.length} boards.`);
      await this.pause();
    }
    run.means = sums;
    this.say("");
    this.refresh();
  }

  /** The class that a read-out names at a cell of a stage x (T, D). */
  readOut(run, name, stage, x, cell) {
    const { weights, classes } = run.readouts[name], { D } = run.sizes, start = stage * (D + 1) * classes;
    const evidence = Array.from({ length: classes }, (_, c) => {
      let sum = weights[start + D * classes + c];
      for (let i = 0; i < D; i++) sum += x[cell * D + i] * weights[start + i * classes + c];
      return sum;
    });
    return argmax(evidence, 0, classes);
  }

  /** The second run: its network and title, or null. */
  second() {
    const { beside } = this.state;
    if (!beside) return null;
    if (beside === "untrained") {
      this.run.untrained ??= networkOf({ ...this.run, ...this.run.weights, untrained: true, seed: 1 });
      return { title: `Untrained ${this.state.run}`, network: this.run.untrained };
    }
    const { network, sizes } = this.runs[beside];
    if (sizes.T !== this.run.sizes.T || sizes.V !== this.run.sizes.V) return { title: beside, misfit: true };
    return { title: beside, network };
  }

  // Drawing

  /** Computes and draws everything after a change: answers at once, panels in tasks of their own. */
  refresh() {
    const { state } = this, turn = ++this.turn, { masked } = state;
    this.pass = state.edits.length ? this.run.network.forward(masked, this.edits()) : this.clean();
    this.shares = probabilities(this.pass.logits, this.run.sizes.V);
    this.drawBoard();
    this.drawNetwork(this.grids.network, `Network: ${state.run}`, this.pass, state.edits.length);
    this.drawSecond(masked);
    this.observe(masked, turn);
    byId("undo").disabled = !state.past.length;
    byId("redo").disabled = !state.future.length;
    this.keepLink();
    this.drawLater(PANELS);
  }

  drawLater(names) {
    const turn = this.turn;
    this.waiting = new Set([...this.waiting ?? [], ...names]);
    clearTimeout(this.panelTimer);
    this.panelTimer = setTimeout(async () => {
      const list = PANELS.filter((name) => this.waiting.has(name) && this.state.open.has(name));
      this.waiting.clear();
      for (const name of list) {
        this.drawPanel(name);
        await this.pause();
        if (turn !== this.turn) return;
      }
    });
  }

  kindOf(t, answer) {
    const { mask, tokens } = this.state;
    return `${mask[t] ? "was-hidden" : ""} ${answer !== tokens[t] && answer !== this.run.boards.hidden ? "wrong" : ""}`;
  }

  drawBoard() {
    const { boards } = this.run, { tokens, mask } = this.state, { grid, says } = this.grids.board;
    grid.draw(tokens.map((token, t) => (mask[t]
      ? { token: boards.hidden, note: String(token), label: `${boards.place(t)}: hidden, ${boards.tokenName(token)}` }
      : { token, label: `${boards.place(t)}: ${boards.tokenName(token)}` })), boards);
    const hidden = mask.filter(Boolean).length;
    says.textContent = `${hidden} of ${boards.T} cells hidden. The network sees "?" there; the small number is the truth.`;
  }

  drawNetwork(place, title, pass, edited) {
    const V = this.run.sizes.V, answers = this.answers(pass.logits, V);
    place.title.textContent = title;
    this.drawAnswers(place, answers, pass === this.pass ? this.shares : probabilities(pass.logits, V));
    const before = edited ? this.answers(this.clean().logits, V).filter((token, t) => token !== answers[t]).length : 0;
    place.says.textContent = `${this.rightText(answers)}${edited ? ` Edited: ${before} answers changed.` : ""}`;
  }

  /** Draws answers (T,) with their probabilities (T, V). */
  drawAnswers({ grid }, answers, shares) {
    const { boards, sizes: { V } } = this.run, { tokens } = this.state;
    grid.draw(answers.map((token, t) => {
      const share = shares[t * V + token], wrong = token !== tokens[t];
      return { token, note: `${wrong ? "✗" : ""}${short(share)}`, kind: this.kindOf(t, token),
               label: `${boards.place(t)}: ${boards.tokenName(token)}, ${percent(share)}${wrong ? ", wrong" : ""}` };
    }), boards);
  }

  rightText(answers) {
    const { tokens, mask } = this.state, hidden = [...mask.keys()].filter((t) => mask[t]);
    const right = hidden.filter((t) => answers[t] === tokens[t]).length;
    const lost = answers.filter((token, t) => !mask[t] && token !== tokens[t]).length;
    return `${right} of ${hidden.length} hidden cells right${lost ? `, ${lost} visible cells changed` : ""}. `
      + "Small numbers: percent sure; ✗: wrong.";
  }

  drawSecond(masked) {
    const second = this.second();
    if (!second) {
      this.grids.beside?.node.remove();
      this.grids.beside = null;
      this.besidePass = null;
      return;
    }
    if (!this.grids.beside) {
      const node = element("figure");
      this.grids.network.node.after(node);
      this.grids.beside = this.smallGrid(node, "Second network");
    }
    if (second.misfit) {
      this.besidePass = null;
      this.grids.beside.title.textContent = second.title;
      this.grids.beside.says.textContent = "This run's boards have another size or other tokens, so it cannot read this board.";
      return;
    }
    this.besidePass = second.network.forward(masked);
    this.drawNetwork(this.grids.beside, second.title, this.besidePass, 0);
  }

  /** Lets the observer think for some milliseconds; if that is not enough it goes on in further tasks. */
  async observe(masked, turn) {
    const steps = this.run.observer().answers(masked);
    let step = thinking(steps, 15);
    if (!step.done) {
      this.known = null;
      this.grids.observer.says.textContent = "Counting the boards that are possible …";
      this.drawCell();
    }
    while (!step.done) {
      await this.pause();
      if (turn !== this.turn) return;
      step = thinking(steps, 30);
    }
    this.known = step.value;
    this.drawObserver();
    this.drawCell();
  }

  drawObserver() {
    const { known } = this, { boards, sizes: { V } } = this.run, { mask } = this.state;
    const { observer, difference } = this.grids, { unused } = boards.data;
    if (!known.shares) {
      observer.says.textContent = known.tooMany
        ? "Too many boards are possible to be counted here; hide fewer cells (in Python, dataset.posterior goes further)."
        : `No board of this data set looks like this${unused.length ? ` (it has none of type ${unused.join(" or ")})` : ""}. `
          + "The network answers all the same.";
      for (const { grid } of [observer, difference]) {
        grid.draw(mask.map((_, t) => ({ token: boards.hidden, text: "–", label: `${boards.place(t)}: no answer` })), boards);
      }
      difference.says.textContent = "";
      return;
    }
    this.drawAnswers(observer, this.answers(known.shares, V), known.shares);
    observer.says.textContent = `${known.count.toLocaleString("en")} ${known.count === 1 ? "board is" : "boards are"} possible. `
      + "The surest answer that the visible cells allow, cell by cell.";
    this.drawDifference();
  }

  /** How far apart the two distributions are: the total variation, 0 if they are the same, 100 if they are disjoint. */
  drawDifference() {
    const { known, shares } = this, { boards, sizes: { V } } = this.run, { mask } = this.state, { grid, says } = this.grids.difference;
    let differ = 0, sum = 0;
    const cells = mask.map((hidden, t) => {
      let distance = 0;
      for (let v = 0; v < V; v++) distance += Math.abs(known.shares[t * V + v] - shares[t * V + v]) / 2;
      const other = argmax(known.shares, t * V, V), own = argmax(shares, t * V, V), differs = other !== own;
      if (hidden) [differ, sum] = [differ + differs, sum + distance];
      return { token: 0, text: hidden || differs ? short(distance) : "", note: differs ? `${own}≠${other}` : "", distance,
               label: `${boards.place(t)}: ${percent(distance)} apart${differs ? `, network ${own}, observer ${other}` : ""}` };
    });
    cells.forEach((cell, t) => {
      const node = grid.cells[t], key = cell.text + cell.note + isDark() + cell.label;
      if (node.key === key) return;
      node.key = key;
      paintShare(node, cell.text === "" ? 0 : cell.distance, cell);
      node.note.textContent = cell.note;
    });
    const hidden = mask.filter(Boolean).length;
    says.textContent = hidden ? `Another answer in ${differ} of ${hidden} hidden cells; distributions ${percent(sum / hidden)} apart `
      + "in the mean (total variation)." : "Nothing is hidden.";
  }

  /** The chosen cell's distributions. */
  drawCell() {
    const { state, known } = this, { boards, sizes: { V } } = this.run, { cell } = state;
    for (const grid of this.allGrids) {
      if (grid.node.isConnected) grid.select(cell);
      else this.allGrids.delete(grid);
    }
    byId("cell-title").textContent = `Cell at ${boards.place(cell)}`;
    const columns = [["Network", this.shares]];
    if (this.besidePass) columns.push([this.second().title, probabilities(this.besidePass.logits, V)]);
    if (known?.shares) columns.push(["Ideal observer", known.shares]);
    const most = (v) => Math.max(...columns.map(([, shares]) => shares[cell * V + v]));
    const shown = Array.from({ length: V }, (_, v) => v).filter((v) => most(v) >= 0.005).sort((a, b) => most(b) - most(a)).slice(0, 10);
    const head = ["Token", ...columns.map(([title]) => title)].map((title) => element("th", { scope: "col", textContent: title }));
    const rows = shown.map((v) => element("tr", {}, element("th", { scope: "row", textContent: boards.tokenName(v) }),
      ...columns.map(([, shares]) => {
        const share = shares[cell * V + v], bar = element("div", { className: shares === known?.shares ? "bar known" : "bar" });
        bar.style.width = `${Math.max(1, 100 * share)}%`;
        return element("td", {}, element("div", { className: "bar-box" }, bar), `${(100 * share).toFixed(1)}%`);
      })));
    byId("cell-table").replaceChildren(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
    byId("cell-note").textContent = `On the board: ${boards.tokenName(state.tokens[cell])}, ${state.mask[cell] ? "hidden" : "visible"}.`;
  }

  // Copies

  /** The state, and what is shown of it. */
  summary() {
    const { V } = this.run.sizes;
    return { ...this.state.values(), answers: this.answers(this.pass.logits, V),
             probabilities: this.answers(this.pass.logits, V).map((token, t) => Number(this.shares[t * V + token].toFixed(6))),
             possibleBoards: this.known?.count ?? null };
  }

  savePicture() {
    const { boards, sizes: { V } } = this.run, titles = ["Board", `Network: ${this.state.run}`];
    const tokens = [this.state.masked, this.answers(this.pass.logits, V)];
    if (this.known?.shares) {
      titles.push("Ideal observer");
      tokens.push(this.answers(this.known.shares, V));
    }
    savePicture(asPicture(titles, tokens, boards), "explorer.png");
  }
}

/** Takes steps of a generator for some milliseconds. */
function thinking(steps, milliseconds) {
  const end = performance.now() + milliseconds;
  let step = steps.next();
  while (!step.done && performance.now() < end) step = steps.next();
  return step;
}

/** A run with what is computed from its description. The observer is made when it is first asked. */
function prepared(run) {
  const boards = new BoardSet(run.data);
  let observer = null;
  for (const readout of Object.values(run.readouts)) readout.weights = new Float32Array(bytesOf(readout.blob).buffer);
  return Object.assign(run, { boards, network: networkOf({ ...run, ...run.weights }),
                              observer: () => (observer ??= new Observer(run.data)) });
}

/** For tests and for the console: see SPEC section 9. */
function offer(app) {
  const checked = (name, tokens) => {
    const run = app.runs[name];
    if (!run) throw new RangeError(`There is no run ${name}; there are ${app.state.names.join(", ")}.`);
    const { T, V } = run.sizes, list = [...tokens];
    if (list.length !== T || !list.every((token) => Number.isInteger(token) && token >= 0 && token < V)) {
      throw new RangeError(`tokens must be ${T} whole numbers from 0 to ${V - 1}.`);
    }
    return [run, list];
  };
  const forward = (name, tokens) => {
    const [run, list] = checked(name, tokens);
    return run.network.forward(list);
  };
  return {
    runs: app.state.names,
    logits: (run, tokens) => Float32Array.from(forward(run, tokens).logits),
    activation: (run, name, tokens) => {
      const { acts } = forward(run, tokens);
      if (!acts.has(name)) throw new RangeError(`There is no activation ${name}; there are ${[...acts.keys()].join(", ")}.`);
      return Float32Array.from(acts.get(name));
    },
    posterior: (name, tokens) => {
      const [run, list] = checked(name, tokens);
      const answer = run.observer().answer(list, 10 ** 7);
      if (answer.tooMany) throw new RangeError("More than 10 million hypotheses fit these tokens.");
      return answer.shares ?? null;
    },
    setBoard: (tokens, masks) => {
      const [run, list] = checked(app.state.run, tokens), mask = [...masks].map(Number);
      if (list.includes(run.boards.hidden)) throw new RangeError("tokens hold the truth; masks say what is hidden.");
      if (mask.length !== list.length || mask.some((m) => m !== 0 && m !== 1)) {
        throw new RangeError(`masks must be ${list.length} zeros and ones.`);
      }
      app.state.change(list, mask);
      app.refresh();
    },
    state: () => app.state.values(),
    app,
  };
}

window.explorer = { ready: null };
window.explorer.ready = new Promise((resolve) => {
  const app = new App(JSON.parse(byId("data").textContent).runs);
  Object.assign(window.explorer, offer(app));
  performance.mark("usable");
  resolve(window.explorer);
});
