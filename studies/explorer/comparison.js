// The boards beside each other: the board, the network's, a second network's, the ideal observer's, where they differ; and
// the chosen cell's distributions.

class Comparison {
  constructor(app) { this.app = app; }

  /** Grids of the side of the run's boards. */
  build() {
    const { app } = this, host = byId("boards");
    host.replaceChildren();
    const figure = (title, options) => app.smallGrid(host.appendChild(element("figure")), title, options);
    let stroke = 0;  // what a brush does is set by its first cell: hide, or show
    this.grids = {
      board: figure("Board", { drag: true, act: (cell, event, first = true) => {
        if (first) stroke = 1 - app.state.mask[cell];
        app.act(cell, stroke, first);
      } }),
      network: figure("Network"), observer: figure("Ideal observer"), difference: figure("Where they differ"), beside: null,
    };
  }

  draw(turn) {
    const { app } = this, { run, edits, masked } = app.state;
    this.drawBoard();
    this.drawNetwork(this.grids.network, `Network: ${run}`, app.pass, edits.length);
    this.drawSecond(masked);
    this.observe(masked, turn);
  }

  kindOf(t, answer) {
    const { mask, tokens } = this.app.state;
    return `${mask[t] ? "was-hidden" : ""} ${answer !== tokens[t] && answer !== this.app.run.boards.hidden ? "wrong" : ""}`;
  }

  drawBoard() {
    const { boards } = this.app.run, { tokens, mask } = this.app.state, { grid, says } = this.grids.board;
    grid.draw(tokens.map((token, t) => (mask[t]
      ? { token: boards.hidden, note: String(token), label: `${boards.place(t)}: hidden, ${boards.tokenName(token)}` }
      : { token, label: `${boards.place(t)}: ${boards.tokenName(token)}` })), boards);
    const hidden = mask.filter(Boolean).length;
    says.textContent = `${hidden} of ${boards.T} cells hidden. The network sees "?" there; the small number is the truth.`;
  }

  drawNetwork(place, title, pass, edited) {
    const V = this.app.run.sizes.V, answers = this.app.answers(pass.logits, V);
    place.title.textContent = title;
    this.drawAnswers(place, answers, pass === this.app.pass ? this.app.shares : probabilities(pass.logits, V));
    const before = edited ? this.app.answers(this.app.clean().logits, V).filter((token, t) => token !== answers[t]).length : 0;
    place.says.textContent = `${this.rightText(answers)}${edited ? ` Edited: ${before} answers changed.` : ""}`;
  }

  /** Draws answers (T,) with their probabilities (T, V). */
  drawAnswers({ grid }, answers, shares) {
    const { boards, sizes: { V } } = this.app.run, { tokens } = this.app.state;
    grid.draw(answers.map((token, t) => {
      const share = shares[t * V + token], wrong = token !== tokens[t];
      return { token, note: `${wrong ? "✗" : ""}${short(share)}`, kind: this.kindOf(t, token),
               label: `${boards.place(t)}: ${boards.tokenName(token)}, ${percent(share)}${wrong ? ", wrong" : ""}` };
    }), boards);
  }

  rightText(answers) {
    const { tokens, mask } = this.app.state, hidden = [...mask.keys()].filter((t) => mask[t]);
    const right = hidden.filter((t) => answers[t] === tokens[t]).length;
    const lost = answers.filter((token, t) => !mask[t] && token !== tokens[t]).length;
    return `${right} of ${hidden.length} hidden cells right${lost ? `, ${lost} visible cells changed` : ""}. `
      + "Small numbers: percent sure; ✗: wrong.";
  }

  drawSecond(masked) {
    const second = this.app.second();
    if (!second) {
      this.grids.beside?.node.remove();
      this.grids.beside = null;
      this.besidePass = null;
      return;
    }
    if (!this.grids.beside) {
      const node = element("figure");
      this.grids.network.node.after(node);
      this.grids.beside = this.app.smallGrid(node, "Second network");
    }
    if (second.misfit) {
      this.besidePass = null;
      this.grids.beside.title.textContent = second.title;
      this.grids.beside.says.textContent = second.misfit;
      return;
    }
    this.besidePass = second.network.forward(masked);
    this.drawNetwork(this.grids.beside, second.title, this.besidePass, 0);
  }

  /** Lets the observer think for some milliseconds; if that is not enough it goes on in further tasks. */
  async observe(masked, turn) {
    const steps = this.app.run.observer().answers(masked);
    let step = thinking(steps, 15);
    if (!step.done) {
      this.known = null;
      this.grids.observer.says.textContent = "Counting the boards that are possible …";
      this.drawCell();
    }
    while (!step.done) {
      await this.app.pause();
      if (turn !== this.app.turn) return;
      step = thinking(steps, 30);
    }
    this.known = step.value;
    this.drawObserver();
    this.drawCell();
  }

  drawObserver() {
    const { known } = this, { boards, sizes: { V } } = this.app.run, { mask } = this.app.state;
    const { observer, difference } = this.grids, { unused } = boards.data;
    if (!known.shares) {
      observer.says.textContent = known.tooMany
        ? "Too many boards are possible to be counted here; hide fewer cells (in Python, dataset.posterior goes further)."
        : `No board of this data set looks like this${unused.length ? ` (training ended without type ${unused.join(" or ")})` : ""}. `
          + "The network answers all the same.";
      for (const { grid } of [observer, difference]) {
        grid.draw(mask.map((_, t) => ({ token: boards.hidden, text: "–", label: `${boards.place(t)}: no answer` })), boards);
      }
      difference.says.textContent = "";
      return;
    }
    this.drawAnswers(observer, this.app.answers(known.shares, V), known.shares);
    observer.says.textContent = `${known.count.toLocaleString("en")} ${known.count === 1 ? "board is" : "boards are"} possible. `
      + "The surest answer that the visible cells allow, cell by cell.";
    this.drawDifference();
  }

  /** How far apart the two distributions are: the total variation, 0 if they are the same, 100 if they are disjoint. */
  drawDifference() {
    const { known, app: { shares } } = this, { boards, sizes: { V } } = this.app.run, { mask } = this.app.state, { grid, says } = this.grids.difference;
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
    const { known, app: { state } } = this, { boards, sizes: { V } } = this.app.run, { cell } = state;
    for (const grid of this.app.allGrids) {
      if (grid.node.isConnected) grid.select(cell);
      else this.app.allGrids.delete(grid);
    }
    byId("cell-title").textContent = `Cell at ${boards.place(cell)}`;
    const columns = [["Network", this.app.shares]];
    if (this.besidePass) columns.push([this.app.second().title, probabilities(this.besidePass.logits, V)]);
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
}

/** Takes steps of a generator for some milliseconds. */
function thinking(steps, milliseconds) {
  const end = performance.now() + milliseconds;
  let step = steps.next();
  while (!step.done && performance.now() < end) step = steps.next();
  return step;
}
