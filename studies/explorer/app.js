// The page: it keeps the state, computes answers and draws them, and offers window.explorer.

class App {
  constructor(runs) {
    this.runs = Object.fromEntries(runs.map((run) => [run.name, prepared(run)]));
    this.state = new State(this.runs);
    this.comparison = new Comparison(this);
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
    this.comparison.build();
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
    this.comparison.drawCell();
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
      const chosen = cells && Uint8Array.from({ length: this.run.network.rowsOf(name) }, (_, t) => Number(cells.includes(t)));
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
      const title = `Untrained ${this.state.run}`;
      if (!this.run.seeds) return { title, misfit: "Layers of fewer than 16 numbers cannot be drawn as torch draws them." };
      this.run.untrained ??= networkOf({ ...this.run, ...this.run.weights, untrained: true });
      return { title, network: this.run.untrained };
    }
    const { network, sizes } = this.runs[beside], fits = sizes.T === this.run.sizes.T && sizes.V === this.run.sizes.V;
    if (!fits) return { title: beside, misfit: "This run's boards have another size or other tokens, so it cannot read this board." };
    return { title: beside, network };
  }

  // Drawing

  /** Computes and draws everything after a change: answers at once, panels in tasks of their own. */
  refresh() {
    const { state } = this, turn = ++this.turn;
    this.pass = state.edits.length ? this.run.network.forward(state.masked, this.edits()) : this.clean();
    this.shares = probabilities(this.pass.logits, this.run.sizes.V);
    this.comparison.draw(turn);
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

  // Copies

  /** The state, and what is shown of it. */
  summary() {
    const { V } = this.run.sizes;
    return { ...this.state.values(), answers: this.answers(this.pass.logits, V),
             probabilities: this.answers(this.pass.logits, V).map((token, t) => Number(this.shares[t * V + token].toFixed(6))),
             possibleBoards: this.comparison.known?.count ?? null };
  }

  savePicture() {
    const { state, run: { boards, sizes: { V } }, comparison: { besidePass, known } } = this;
    const shown = [["Board", null], [`Network: ${state.run}${state.edits.length ? " (edited)" : ""}`, this.pass.logits]];
    if (besidePass) shown.push([this.second().title, besidePass.logits]);
    if (known?.shares) shown.push(["Ideal observer", known.shares]);
    const tokens = shown.map(([, scores]) => (scores ? this.answers(scores, V) : state.masked));
    savePicture(asPicture(shown.map(([title]) => title), tokens, boards, state.tokens), "explorer.png");
  }
}
