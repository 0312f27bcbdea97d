// The panels under the boards. Each is a class with a title, build(host), called once when it is first opened, and draw(),
// called after every change while it is open. app: see app.js.

const TASK = 30;  // milliseconds of work between two paints

class EasyFirst {
  constructor(app) {
    this.app = app;
    this.title = "Easy first";
    this.hint = "the network fills one cell at a time, the surest first, and reads what it has filled";
  }

  build(host) {
    this.slider = element("input", { type: "range", id: "easy-step", min: 0, max: 0, value: 0, oninput: () => this.show() });
    const move = (by) => () => { this.slider.value = Number(this.slider.value) + by; this.show(); };
    this.says = element("p", { role: "status" });
    const one = element("figure"), step = element("figure");
    host.append(element("div", { className: "controls" },
      element("button", { textContent: "Back", onclick: move(-1) }),
      element("button", { id: "easy-next", textContent: "Next", onclick: move(1) }),
      element("button", { textContent: "To the end", onclick: move(1000) }),
      element("label", {}, "Step ", this.slider)), this.says, element("div", { className: "pictures" }, step, one));
    this.step = this.app.smallGrid(step, "Easy first");
    this.one = this.app.smallGrid(one, "One pass");
  }

  /** Fills cell by cell, one pass a task, so that the page stays quick. */
  async draw() {
    const { app } = this, { boards, network } = app.run, turn = app.turn, V = network.V;
    const tokens = [...app.state.masked];
    this.steps = [];
    for (let left = tokens.filter((token) => token === boards.hidden).length; left > 0; left--) {
      const shares = probabilities(network.forward(tokens, app.edits()).logits, V);
      let best = { share: -1 };
      tokens.forEach((token, cell) => {
        if (token !== boards.hidden) return;
        const answer = argmax(shares, cell * V, V), share = shares[cell * V + answer];
        if (share > best.share) best = { cell, answer, share };
      });
      tokens[best.cell] = best.answer;
      this.steps.push(best);
      await app.pause();
      if (turn !== app.turn) return;
    }
    this.slider.max = this.steps.length;
    this.slider.value = Math.min(this.slider.value, this.steps.length);
    const last = network.forward(tokens, app.edits());
    // visible cells get the network's own answer, as reconstruct(..., decode="easy first") gives them
    this.visible = app.answers(last.logits, V);
    app.drawAnswers(this.one, app.answers(app.pass.logits, V), probabilities(app.pass.logits, V));
    this.one.says.textContent = app.rightText(app.answers(app.pass.logits, V));
    this.show();
  }

  show() {
    const { app, steps } = this, { boards } = app.run, count = Number(this.slider.value);
    if (!steps) return;
    const tokens = [...app.state.masked], notes = {};
    for (const { cell, answer, share } of steps.slice(0, count)) [tokens[cell], notes[cell]] = [answer, share];
    const done = count === steps.length;
    this.step.grid.draw(tokens.map((token, t) => ({
      token: done && !app.state.mask[t] ? this.visible[t] : token, note: t in notes ? short(notes[t]) : "",
      kind: app.kindOf(t, token), label: `${boards.place(t)}: ${boards.tokenName(token)}` })), boards);
    const last = steps[count - 1];
    this.says.textContent = !steps.length ? "Nothing is hidden, so there is nothing to fill."
      : !count ? `Step 0 of ${steps.length}: nothing is filled yet.`
        : `Step ${count} of ${steps.length}: ${boards.place(last.cell)} becomes ${last.answer} (${percent(last.share)} sure).`;
    const filled = tokens.map((token) => (token === boards.hidden ? -1 : token));
    this.step.says.textContent = app.rightText(filled);
  }
}

class AttentionMaps {
  constructor(app) {
    this.app = app;
    this.title = "Attention";
    this.hint = "of the chosen cell, in every block and head";
  }

  build(host) {
    this.host = host;
    this.maps = new Map();
    this.says = element("p");
    const { network } = this.app.run, heads = element("div", { className: "heads" });
    host.append(this.says, heads);
    this.network = network;
    for (let i = 0; i < network.layers; i++) for (let h = 0; h < network.H; h++) {
      for (const [title, part] of Object.entries(network.attentionMaps)) {
        const pair = ["from it", "to it"].map((way) => {
          const figure = element("figure", {}, element("canvas"), element("figcaption"));
          this.maps.set(`${i} ${h} ${part} ${way}`, figure);
          return figure;
        });
        const heading = element("h3", { textContent: `Block ${i}, head ${h}, ${title}` });
        heads.append(element("div", {}, heading, element("div", { className: "maps" }, ...pair)));
      }
    }
  }

  draw() {
    const { app } = this, { network, boards } = app.run, { T, H } = network, { cell } = app.state;
    if (network !== this.network) {  // another run has other heads
      this.host.replaceChildren();
      this.build(this.host);
    }
    this.says.textContent = `Cell at ${boards.place(cell)}. From it: the cells that it reads, shares that add up to 1. `
      + "To it: how much each cell reads of it. The outline is the cell itself.";
    for (let i = 0; i < network.layers; i++) for (let h = 0; h < H; h++) {
      for (const part of Object.values(network.attentionMaps)) {
        const weights = app.pass.acts.get(`b${i}_${part}`).subarray(h * T * T, (h + 1) * T * T);
        const maps = { "from it": [...weights.subarray(cell * T, (cell + 1) * T)],
                       "to it": Array.from({ length: T }, (_, t) => weights[t * T + cell]) };
        for (const [way, values] of Object.entries(maps)) {
          const [canvas, caption] = this.maps.get(`${i} ${h} ${part} ${way}`).children;
          const description = `${way}: most at ${strongest(values, boards)}`;
          drawMap(canvas, values, boards.h, { description: `Block ${i}, head ${h}, ${description}`, mark: cell });
          caption.textContent = description;
        }
      }
    }
  }
}

class Lens {
  constructor(app) {
    this.app = app;
    this.title = "Lens";
    this.hint = "what each stage of the network would answer, and which root and place can be read out of it";
  }

  build(host) {
    this.says = element("p");
    this.table = element("table");
    this.pictures = element("div", { className: "maps" });
    host.append(this.says, element("div", { className: "scroll", tabIndex: 0, role: "region",
      "aria-label": "Lens, stage by stage" }, this.table), this.pictures);
  }

  draw() {
    const { app } = this, { network, boards, readouts } = app.run, { V } = network, { cell, mask, tokens } = app.state;
    const stages = network.residual(app.pass), hidden = [...mask.keys()].filter((t) => mask[t]);
    this.says.textContent = `Cell at ${boards.place(cell)}. Answer: the last LayerNorm and the head read the stage (logit `
      + "lens). Root and place: linear read-outs fitted on other boards; in brackets the share of hidden object cells "
      + "that they name correctly on held-out boards.";
    const head = element("tr", {}, ...["Stage", "Answer", "Root that covers it", "Place in the root", "Hidden cells right"]
      .map((title) => element("th", { scope: "col", textContent: title })));
    this.pictures.replaceChildren();
    const rows = stages.map(([title, x], k) => {
      const shares = probabilities(network.readOut(x), V), answers = app.answers(shares, V), answer = answers[cell];
      const right = hidden.filter((t) => answers[t] === tokens[t]).length;
      const read = (name, none) => {
        const found = app.readOut(app.run, name, k, x, cell), { right: skill, classes } = readouts[name];
        return (found === classes - 1 ? none : name === "root" ? `root ${found}` : this.inRoot(found, boards))
          + (skill ? ` (${percent(skill[k])})` : "");
      };
      const canvas = element("canvas", { className: "board" });
      const wrong = hidden.filter((t) => answers[t] !== tokens[t]);
      drawBoard(canvas, answers, boards, { description: `${title}: ${right} of ${hidden.length} hidden cells right`, wrong });
      this.pictures.append(element("figure", {}, canvas, element("figcaption", { textContent: title })));
      return element("tr", {}, element("th", { scope: "row", textContent: title }),
        ...[`${boards.tokenName(answer)}, ${percent(shares[cell * V + answer])}`, read("root", "no object"),
            read("place", "no object"), `${right} of ${hidden.length}`].map((text) => element("td", { textContent: text })));
    });
    this.table.replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  }

  inRoot(place, boards) {
    return `row ${Math.floor(place / boards.d) + 1}, column ${(place % boards.d) + 1}`;
  }
}

class Edits {
  constructor(app) {
    this.app = app;
    this.title = "Edit";
    this.hint = "replace activations, switch off heads and MLPs, or map where a donor's activation matters";
  }

  build(host) {
    const { app } = this, select = (id) => element("select", { id });
    this.name = select("edit-name");
    this.how = select("edit-how");
    this.how.append(...HOWS.map((how) => new Option({ zero: "zero", mean: "mean", donor: "the donor's" }[how], how)));
    this.cells = select("edit-cells");
    this.cells.append(new Option("all cells", "all"), new Option("hidden cells", "hidden"), new Option("the chosen cell", "cell"),
                      new Option("the chosen cell's object", "object"));
    this.head = select("edit-head");
    this.name.onchange = () => this.heads();
    this.list = element("ul", { className: "edits" });
    this.switches = element("fieldset", { className: "controls" });
    this.donor = element("canvas", { className: "board" });
    this.mapName = select("map-name");
    this.mapFigure = element("figure");
    this.mapSays = element("p", { role: "status" });
    host.append(
      element("h3", { textContent: "Replace an activation" }),
      element("div", { className: "controls" }, element("label", {}, "Activation ", this.name), element("label", {}, "by ", this.how),
        element("label", {}, "in ", this.cells), element("label", {}, "head ", this.head),
        element("button", { id: "edit-add", textContent: "Add edit", onclick: () => this.add() })),
      this.list, this.switches,
      element("h3", { textContent: "Donor" }),
      element("p", { textContent: "Another board, with the same cells hidden. Its activations can replace those of the board." }),
      element("div", { className: "controls" }, this.donor,
        element("button", { id: "donor-draw", textContent: "Draw another donor", onclick: () => app.drawDonor() }),
        element("button", { textContent: "Exchange with the board", onclick: () => app.exchangeDonor() })),
      element("h3", { textContent: "Patch map" }),
      element("p", { textContent: "Each cell's activation in turn is replaced by the donor's. The number is the share, in "
        + "percent, of the donor's answer in the chosen cell that this recovers: 0 no effect, 100 the donor's logits." }),
      element("div", { className: "controls" }, element("label", {}, "Activation ", this.mapName),
        element("button", { id: "map-draw", textContent: "Draw map", onclick: () => this.drawPatchMap() })),
      this.mapSays, this.mapFigure);
  }

  draw() {
    const { app } = this, { network, boards } = app.run;
    if (network !== this.network) this.fill(network);
    this.list.replaceChildren(...app.state.edits.map((edit, k) => element("li", {}, `${this.describe(edit)} `,
      element("button", { textContent: "Remove", "aria-label": `Remove edit: ${this.describe(edit)}`,
                          onclick: () => app.setEdits(app.state.edits.filter((_, i) => i !== k)) }))));
    for (const box of this.switches.querySelectorAll("input")) box.checked = !this.isOff(box.names, box.head);
    drawBoard(this.donor, boards.masked(app.state.donor, app.state.mask), boards, { description: "The donor board" });
    if (this.mapOf !== this.mapKey()) {
      this.mapFigure.replaceChildren();
      this.mapSays.textContent = "";
    }
  }

  /** The choices that a network gives. */
  fill(network) {
    this.network = network;
    const names = network.activationNames();
    this.name.replaceChildren(...names.map((name) => new Option(name)));
    this.mapName.replaceChildren(...names.filter((name) => name !== "logit").map((name) => new Option(name)));
    this.mapName.value = `b0_${network.blockOutput}`;
    this.heads();
    const box = (title, names, head) => {
      const input = element("input", { type: "checkbox", checked: true, onchange: () => this.flip(names, head) });
      Object.assign(input, { names, head });
      return element("label", {}, input, ` ${title}`);
    };
    const boxes = Array.from({ length: network.layers }, (_, i) => [
      ...Array.from({ length: network.H }, (_, h) => (
        box(`block ${i}, head ${h}`, network.switches.head.map((part) => `b${i}_${part}`), h))),
      box(`block ${i}, MLP`, [`b${i}_${network.switches.mlp}`], null)]);
    this.switches.replaceChildren(element("legend", { textContent: "Switched on" }), ...boxes.flat());
  }

  heads() {
    const { H } = this.network, has = this.network.hasHeads(this.name.value), before = this.head.value;
    const heads = has ? Array.from({ length: H }, (_, h) => new Option(String(h), h)) : [];
    this.head.replaceChildren(new Option("all", "all"), ...heads);
    if ([...this.head.options].some((option) => option.value === before)) this.head.value = before;
  }

  describe({ name, how, cells, head }) {
    const { boards } = this.app.run, where = !cells ? "all cells"
      : cells.length === 1 ? boards.place(cells[0]) : `${cells.length} cells`;
    const what = { zero: "set to zero", mean: "set to its mean", donor: "taken from the donor" }[how];
    return `${name}${head === null ? "" : `, head ${head}`}: ${what} in ${where}`;
  }

  add() {
    const { state, run } = this.app, { mask, cell, tokens } = state;
    const cells = { all: () => null, hidden: () => [...mask.keys()].filter((t) => mask[t]), cell: () => [cell],
                    object: () => run.boards.objectCells(tokens, cell) }[this.cells.value]();
    if (cells && !cells.length) return this.app.say("There is no such cell on this board, so no edit was added.");
    const head = this.head.value === "all" ? null : Number(this.head.value);
    this.app.setEdits([...state.edits, { name: this.name.value, how: this.how.value, cells, head }]);
  }

  switchedOff(edit, names, head) {
    return names.includes(edit.name) && edit.how === "zero" && !edit.cells && edit.head === head;
  }

  isOff(names, head) {
    return names.every((name) => this.app.state.edits.some((edit) => this.switchedOff(edit, [name], head)));
  }

  flip(names, head) {
    const { edits } = this.app.state, others = edits.filter((edit) => !this.switchedOff(edit, names, head));
    const off = names.map((name) => ({ name, how: "zero", cells: null, head }));
    this.app.setEdits(this.isOff(names, head) ? others : [...others, ...off]);
  }

  /** What a patch map depends on. */
  mapKey() {
    const { state } = this.app;
    return [state.run, state.cell, state.tokens, state.mask, state.donor].join("|");
  }

  /** Some passes a task: the map appears bit by bit, and the page stays quick. */
  async drawPatchMap() {
    const { app } = this, { network, boards } = app.run, { V, T } = network, { cell } = app.state, name = this.mapName.value;
    const base = network.forward(app.state.masked), donor = app.donorPass();
    const [from, to] = [base, donor].map(({ logits }) => argmax(logits, cell * V, V));
    this.mapOf = this.mapKey();
    this.mapFigure.replaceChildren();
    if (from === to) {
      this.mapSays.textContent = `Both boards give ${boards.tokenName(from)} at ${boards.place(cell)}: choose a cell where the `
        + "answers differ, or another donor.";
      return;
    }
    const difference = ({ logits }) => logits[cell * V + to] - logits[cell * V + from];
    const start = difference(base), whole = difference(donor) - start, value = donor.acts.get(name);
    const { grid } = app.smallGrid(this.mapFigure, "Patch map");
    grid.cells.forEach((node, t) => { node.label.textContent = `${boards.place(t)}: not yet computed`; });
    let end = performance.now() + TASK;
    for (let t = 0; t < T; t++) {
      const one = new Uint8Array(T);
      one[t] = 1;
      const share = (difference(network.patched(base, { name, value, cells: one, head: null })) - start) / whole;
      paintShare(grid.cells[t], share, { text: short(share), label: `${boards.place(t)}: ${percent(share)} recovered` });
      if (performance.now() < end && t < T - 1) continue;
      this.mapSays.textContent = `${t + 1} of ${T} cells: from ${from} to ${to} at ${boards.place(cell)}.`;
      await app.pause();
      if (this.mapOf !== this.mapKey()) return;
      end = performance.now() + TASK;
    }
  }
}

/** Draws a share in a cell of a grid: a number on a scale from the page's colour to blue. */
function paintShare(node, share, { text, label }) {
  const strength = Math.min(1, Math.max(0, share)), [low, high] = isDark() ? INK_DARK : INK;
  const color = low.map((c, k) => Math.round(c + (high[k] - c) * strength));
  const fill = `#${color.map((c) => c.toString(16).padStart(2, "0")).join("")}`;
  node.style.backgroundColor = fill;
  node.style.color = inkOn(fill);
  node.token.textContent = text;
  node.label.textContent = label;
}

class Words {
  constructor(app) {
    this.app = app;
    this.title = "Words";
    this.hint = "what LEA's language network says of the board, and what its words alone draw";
  }

  build(host) {
    this.says = element("p");
    this.heads = element("select", { id: "word-heads", onchange: () => this.draw() });
    this.chips = element("ol", { className: "chips" });
    const figure = element("figure");
    host.append(this.says, element("div", { className: "controls" }, element("label", {}, "Attention of ", this.heads),
      element("button", { textContent: "The network's own words", onclick: () => this.app.setWords({}) })), this.chips, figure);
    this.drawn = this.app.smallGrid(figure, "Drawn from the words alone");
  }

  draw() {
    const { app } = this, speaker = speakerOf(app.state);
    if (!speaker) {
      this.says.textContent = "None of the networks on this page has words for such boards.";
      return;
    }
    const { network, boards } = speaker, { S, T, H, V, K } = network;
    const pass = speaker === app.run ? app.pass : network.forward(app.state.masked);
    if (network !== this.network) this.fill(network);
    if (network.passing) {
      this.says.textContent = `${speaker.name} has not started to use words: its vectors pass as they are, so there are no `
        + "words to show.";
      this.chips.replaceChildren();
    } else {
      this.says.textContent = `${speaker.name} says ${S} words of ${K}. A word's map shows where it reads the board.`;
      const donor = network.forward(boards.masked(app.state.donor, app.state.mask));
      const words = this.words(pass);
      for (let s = 0; s < S; s++) this.drawChip(s, words[s], pass, donor.said[s]);
    }
    const sentence = network.passing ? pass.vectors : network.sentenceOf(this.words(pass));
    const logits = network.fromSentence(sentence).logits;
    app.drawAnswers(this.drawn, app.answers(logits, V), probabilities(logits, V));
    const right = app.answers(logits, V).filter((token, t) => token === app.state.tokens[t]).length;
    this.drawn.says.textContent = `${right} of ${T} cells as on the board, hidden ones included.`;
  }

  /** The network's words, with the visitor's in their places. */
  words(pass) { return pass.said.map((word, s) => (s in this.app.state.words ? this.app.state.words[s] : word)); }

  fill(network) {
    this.network = network;
    const heads = Array.from({ length: network.layers * network.H }, (_, k) => (
      new Option(`block ${Math.floor(k / network.H)}, head ${k % network.H}`, k)));
    this.heads.replaceChildren(new Option("the last block, mean of heads", "mean"), ...heads);
    const { app } = this, set = (s, word) => app.setWords({ ...app.state.words, [s]: word });
    this.parts = Array.from({ length: network.S }, (_, s) => {
      const input = element("input", { type: "number", min: 0, max: network.K - 1, "aria-label": `Word ${s + 1}` });
      input.onchange = () => {
        const word = Number(input.value);
        if (Number.isInteger(word) && word >= 0 && word < network.K && input.value !== "") set(s, word);
        else app.say(`Words are whole numbers from 0 to ${network.K - 1}.`);
      };
      const canvas = element("canvas"), label = element("div", { textContent: `Word ${s + 1}` });
      const remove = element("button", { textContent: "Remove", "aria-label": `Remove word ${s + 1}`, onclick: () => set(s, null) });
      const other = element("button", {});
      return { input, canvas, label, remove, other, set: (word) => set(s, word),
               item: element("li", {}, label, canvas, input, remove, other) };
    });
    this.chips.replaceChildren(...this.parts.map(({ item }) => item));
  }

  drawChip(s, word, pass, donorWord) {
    const { app, network, parts } = this, { item, input, canvas, label, other, set } = parts[s];
    item.classList.toggle("changed", s in app.state.words);
    label.textContent = `Word ${s + 1}${word === null ? ": removed" : s in app.state.words ? ": changed" : ""}`;
    if (document.activeElement !== input) input.value = word ?? "";
    other.textContent = `Donor's ${donorWord}`;
    other.setAttribute("aria-label", `Donor's ${donorWord}: take it as word ${s + 1}`);
    other.onclick = () => set(donorWord);
    const values = this.attention(pass, s);
    drawMap(canvas, values, app.run.boards.h, { description: `Word ${s + 1} reads most at ${strongest(values, app.run.boards)}`,
                                                mark: app.state.cell });
    item.title = network.passing ? "" : `reads most at ${strongest(values, app.run.boards)}`;
  }

  /** Where a word reads the board (T,). */
  attention(pass, s) {
    const { network } = this, { S, T, H, layers } = network, chosen = this.heads.value;
    const block = chosen === "mean" ? layers - 1 : Math.floor(chosen / H);
    const weights = pass.acts.get(`ss_b${block}_crossAttn_a`);
    const heads = chosen === "mean" ? Array.from({ length: H }, (_, h) => h) : [chosen % H];
    return Array.from({ length: T }, (_, t) => (
      heads.reduce((sum, h) => sum + weights[(h * S + s) * T + t], 0) / heads.length));
  }
}
