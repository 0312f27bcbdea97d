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
    app.comparison.drawAnswers(this.one, app.answers(app.pass.logits, V), probabilities(app.pass.logits, V));
    this.one.says.textContent = app.comparison.rightText(app.answers(app.pass.logits, V));
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
      kind: `${app.comparison.kindOf(t, token)} ${t === steps[count - 1]?.cell ? "latest" : ""}`, label: `${boards.place(t)}: ${boards.tokenName(token)}` })), boards);
    const last = steps[count - 1];
    this.says.textContent = !steps.length ? "Nothing is hidden, so there is nothing to fill."
      : !count ? `Step 0 of ${steps.length}: nothing is filled yet.`
        : `Step ${count} of ${steps.length}: ${boards.place(last.cell)} becomes ${last.answer} (${percent(last.share)} sure).`;
    const filled = tokens.map((token) => (token === boards.hidden ? -1 : token));
    this.step.says.textContent = app.comparison.rightText(filled);
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
