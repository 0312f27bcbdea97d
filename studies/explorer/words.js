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
    const { network, boards } = speaker, { S, T, H, V, K } = network;
    const pass = speaker === app.run ? app.pass : network.forward(app.state.masked);
    if (network !== this.network) this.fill(network);
    if (network.passing) {
      this.says.textContent = `${speaker.name} has not started to use words: its vectors pass as they are, so there are no `
        + "words to show.";
      this.chips.replaceChildren();
    } else {
      this.says.textContent = `${speaker.name} encodes the board in ${S} words of a codebook of ${K}. A word's map shows where it reads the board.`;
      const donor = network.forward(boards.masked(app.state.donor, app.state.mask));
      const words = this.words(pass);
      for (let s = 0; s < S; s++) this.drawChip(s, words[s], pass, donor.said[s]);
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
