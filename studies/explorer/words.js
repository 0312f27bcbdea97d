// The panel of LEA's words.

class Words {
  constructor(app) {
    this.app = app;
    this.title = "Words";
    this.hint = "the sentence in which LEA encodes the board, and what its words alone draw";
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
    const { network, boards } = speaker, { S, G, T, V, K } = network;
    const pass = speaker === app.run ? app.pass : network.forward(app.state.masked);
    if (network !== this.network) this.fill(network);
    if (network.passing) {
      this.says.textContent = `${speaker.name} has not started to use words: its vectors pass as they are, so there are no `
        + "words to show.";
      this.chips.replaceChildren();
    } else {
      this.says.textContent = `${speaker.name} encodes the board in ${S * G} words of a codebook of ${K}`
        + (G > 1 ? `, ${G} for each of ${S} vectors. A vector's map shows where it reads the board.`
          : ". A word's map shows where it reads the board.");
      const donor = network.forward(boards.masked(app.state.donor, app.state.mask));
      const words = this.words(pass);
      for (let s = 0; s < S; s++) this.drawChip(s, pass);
      words.forEach((word, j) => this.showWord(j, word, donor.said[j]));
    }
    const sentence = network.passing ? pass.vectors : network.sentenceOf(this.words(pass));
    const logits = network.fromSentence(sentence).logits;
    app.comparison.drawAnswers(this.drawn, app.answers(logits, V), probabilities(logits, V));
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
    const { S, G } = network;
    this.parts = Array.from({ length: S * G }, (_, j) => this.wordControls(j));
    this.maps = Array.from({ length: S }, (_, s) => ({ canvas: element("canvas"), label: element("div") }));
    this.items = this.maps.map(({ canvas, label }, s) => element("li", {}, label, canvas,
      ...this.parts.slice(s * G, (s + 1) * G).map(({ item }) => item)));
    this.chips.classList.toggle("parts", G > 1);
    this.chips.replaceChildren(...this.items);
  }

  /** A word's name: its number, or those of its vector and of its part of the vector. */
  nameOf(j) {
    const { G } = this.network;
    return G > 1 ? `${Math.floor(j / G) + 1}.${j % G + 1}` : `${j + 1}`;
  }

  /** What changes the sentence's j-th word. */
  wordControls(j) {
    const { app, network } = this, label = `Word ${this.nameOf(j)}`;
    const set = (word) => app.setWords({ ...app.state.words, [j]: word });
    const input = element("input", { type: "number", min: 0, max: network.K - 1, "aria-label": label });
    input.onchange = () => {
      const word = Number(input.value);
      if (Number.isInteger(word) && word >= 0 && word < network.K && input.value !== "") set(word);
      else app.say(`Words are whole numbers from 0 to ${network.K - 1}.`);
    };
    const remove = element("button", { textContent: "Remove", "aria-label": `Remove ${label.toLowerCase()}`, onclick: () => set(null) });
    const other = element("button", {}), name = element("span", { textContent: this.nameOf(j) });
    return { input, other, set, item: element("div", { className: "word" }, name, input, remove, other) };
  }

  showWord(j, word, donorWord) {
    const { input, other, set } = this.parts[j];
    if (document.activeElement !== input) input.value = word ?? "";
    other.textContent = `Donor's ${donorWord}`;
    other.setAttribute("aria-label", `Donor's ${donorWord}: take it as word ${this.nameOf(j)}`);
    other.onclick = () => set(donorWord);
  }

  /** The s-th vector: where it reads the board, and which of its words are the visitor's. */
  drawChip(s, pass) {
    const { app, network } = this, { canvas, label } = this.maps[s], { G } = network, { words } = app.state;
    const name = `${G > 1 ? "Vector" : "Word"} ${s + 1}`;
    const told = Object.keys(words).filter((j) => Math.floor(j / G) === s)
      .map((j) => `${G > 1 ? `${this.nameOf(Number(j))} ` : ""}${words[j] === null ? "removed" : "changed"}`);
    this.items[s].classList.toggle("changed", told.length > 0);
    label.textContent = told.length ? `${name}: ${told.join(", ")}` : name;
    const values = this.attention(pass, s), most = `reads most at ${strongest(values, app.run.boards)}`;
    drawMap(canvas, values, app.run.boards.h, { description: `${name} ${most}`, mark: app.state.cell });
    this.items[s].title = network.passing ? "" : most;
  }

  /** Where the s-th vector reads the board (T,). */
  attention(pass, s) {
    const { network } = this, { S, T, H, layers } = network, chosen = this.heads.value;
    const block = chosen === "mean" ? layers - 1 : Math.floor(chosen / H);
    const weights = pass.acts.get(`ss_b${block}_crossAttn_a`);
    const heads = chosen === "mean" ? Array.from({ length: H }, (_, h) => h) : [chosen % H];
    return Array.from({ length: T }, (_, t) => (
      heads.reduce((sum, h) => sum + weights[(h * S + s) * T + t], 0) / heads.length));
  }
}
