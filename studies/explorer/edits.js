// The panel of edits: replaced activations, switches of heads and MLPs, the donor, the patch map.

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
    this.head = select("edit-head");
    this.name.onchange = () => this.parts();
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
        element("button", { id: "donor-exchange", textContent: "Exchange with the board", onclick: () => app.exchangeDonor() })),
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
    const mapped = names.filter((name) => name !== "logit" && !name.startsWith("ss_") && !network.isOfWords(name));
    this.mapName.replaceChildren(...mapped.map((name) => new Option(name)));
    this.mapName.value = `b0_${network.blockOutput}`;
    this.parts();
    const box = (title, names, head) => {
      const input = element("input", { type: "checkbox", checked: true, onchange: () => this.flip(names, head) });
      Object.assign(input, { names, head });
      return element("label", {}, input, ` ${title}`);
    };
    const boxes = network.streams.flatMap(([prefix, title]) => Array.from({ length: network.layers }, (_, i) => [
      ...Array.from({ length: network.H }, (_, h) => (
        box(`${title} ${i}, head ${h}`, network.switches.head.map((part) => `${prefix}b${i}_${part}`), h))),
      box(`${title} ${i}, MLP`, [`${prefix}b${i}_${network.switches.mlp}`], null)]));
    this.switches.replaceChildren(element("legend", { textContent: "Switched on" }), ...boxes.flat());
  }

  /** The cells or words and the heads of the named activation. */
  parts() {
    const { network, name: { value: name } } = this, count = (n, title) => Array.from({ length: n }, (_, k) => [title(k), String(k)]);
    const row = network.rowName;
    const cells = [["hidden cells", "hidden"], ["the chosen cell", "cell"], ["the chosen cell's object", "object"]];
    const options = new Map([
      [this.cells, network.isOfWords(name) ? [[`all ${row}s`, "all"], ...count(network.S, (s) => `${row} ${s + 1}`)] : [["all cells", "all"], ...cells]],
      [this.head, [["all", "all"], ...count(network.hasHeads(name) ? network.H : 0, String)]]]);
    for (const [select, choices] of options) {
      const before = select.value;
      select.replaceChildren(...choices.map((choice) => new Option(...choice)));
      if (choices.some(([, value]) => value === before)) select.value = before;
    }
  }

  describe({ name, how, cells, head }) {
    const { boards, network } = this.app.run, words = network.isOfWords(name), kind = words ? `${network.rowName}s` : "cells";
    const where = !cells ? `all ${kind}` : cells.length > 1 ? `${cells.length} ${kind}`
      : words ? `${network.rowName} ${cells[0] + 1}` : boards.place(cells[0]);
    const what = { zero: "set to zero", mean: "set to its mean", donor: "taken from the donor" }[how];
    return `${name}${head === null ? "" : `, head ${head}`}: ${what} in ${where}`;
  }

  add() {
    const { state, run } = this.app, { mask, cell, tokens } = state, chosen = this.cells.value;
    const cells = chosen === "all" ? null : chosen === "hidden" ? [...mask.keys()].filter((t) => mask[t]) : chosen === "cell" ? [cell]
      : chosen === "object" ? run.boards.objectCells(tokens, cell) : [Number(chosen)];
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
