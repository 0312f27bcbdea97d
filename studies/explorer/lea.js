// LEA (module_transformer_lea.py) in plain JavaScript: the inference network IN (ps_), which rebuilds a board and
// reads a sentence, the auxiliary language network ALN (ss_), which writes one, and the codebook between them.
//
// Axis letters as in network.js, and S vectors of a sentence, G words for each, K words of the codebook, D / G long.
// G is vq_groups, 1 in the paper.

class LeaNetwork extends BoardNetwork {
  constructor(run) {
    super(run);
    Object.assign(this, run.options);  // apart, blankIsZero, slotHeads, passing
    this.parts = ["selfAttn_a", "selfAttn_v", "selfAttn_attn_v", "selfAttn", "crossAttn_a", "crossAttn_v",
                  "crossAttn_attn_v", "crossAttn", "mlp", "out"];
    this.streams = [["", "block", ["z_out", "logit"]], ["ss_", "language block", ["ss_z_out"]]];
    this.blockOutput = "out";
    this.attentionMaps = { "self-attention": "selfAttn_a" };
    this.switches = { head: ["selfAttn_attn_v", "crossAttn_attn_v"], mlp: "mlp" };
    this.words = this.get("ss_vector_quantizer._embedding.weight");
    this.wordSize = this.D / this.G;
    this.rowName = this.G > 1 ? "vector" : "word";  // what a row of the sentence is called
    [this.board, this.sentence] = ["ps", "ss"].map((stream) => (
      Array.from({ length: this.layers }, (_, i) => this.block(`${stream}_blocks.${i}.`))));
    this.lnOut = this.norm("ps_ln_out");
    this.head = this.get("ps_head.weight");
  }

  isOfWords(name) { return name.startsWith("ss_") !== name.endsWith("crossAttn_v"); }  // values have the rows of what is read

  block(at) {
    const norms = ["ln_x_1", "ln_x_2", "ln_z", "ln_mlp"].map((name) => [name, this.norm(at + name)]);
    const attention = (kind) => Object.fromEntries(
      ["query", "key", "value", "proj"].map((name) => [name, this.affine(`${at}${kind}.${name}`)]));
    return { ...Object.fromEntries(norms), selfAttn: attention("selfAttn"), crossAttn: attention("crossAttn"),
             into: this.affine(`${at}mlp.0`), outOf: this.affine(`${at}mlp.2`) };
  }

  /** Normalised [stream, position code]; the vanilla network has added positions at the input, so p is null. */
  read(norm, x, p, T) {
    const both = joined(x, p, T);
    return layerNorm(both, norm, both.length / T);
  }

  attention(layers, pass, name, x, from, T, S, slotHeads = 0) {
    const q = this.apply(layers.query, x, T), k = this.apply(layers.key, from, S);
    const v = this.apply(layers.value, from, S);
    const heads = attend(pass, `${name}_`, q, k, v, T, S, this.D, null, slotHeads);
    return pass.site(name, this.apply(layers.proj, heads, T), T);
  }

  /** The stream x (T, D), positions p, through a block in which it reads z (S, D) with positions pz. */
  through(block, pass, name, x, p, T, z, pz, S, slotHeads) {
    const own = this.read(block.ln_x_1, x, p, T);
    x = added(x, this.attention(block.selfAttn, pass, `${name}selfAttn`, own, own, T, T));
    const query = this.read(block.ln_x_2, x, p, T), other = this.read(block.ln_z, z, pz, S);
    x = added(x, this.attention(block.crossAttn, pass, `${name}crossAttn`, query, other, T, S, slotHeads));
    const hidden = gelu(this.apply(block.into, this.read(block.ln_mlp, x, p, T), T));
    return pass.site(`${name}out`, added(x, pass.site(`${name}mlp`, this.apply(block.outOf, hidden, T), T)), T);
  }

  /** A stream and its positions as blocks take them: beside it, or added to it. */
  placed(x, positions) { return this.apart ? [x, positions] : [added(x, positions), null]; }

  /** The sentence (S, D) that carries nothing. */
  blank() {
    const { S, G, K, D } = this;
    return this.blankIsZero ? new Float64Array(S * D) : this.vectorsOf(new Array(S * G).fill(K - 1), new Float64Array(S * D));
  }

  /** IN reads tokens (T,) and the blank sentence; ALN then writes its sentence into the pass. */
  forward(tokens, edits = []) {
    const pass = this.picture(tokens, this.blank(), edits);
    this.write(pass);
    return pass;
  }

  /** IN alone: tokens (T,) and a sentence (S, D). */
  picture(tokens, sentence, edits = []) {
    const pass = new Pass(this.H, edits);
    [pass.start] = this.placed(this.rows("ps_token_embedding.weight", tokens), this.get("ps_pos_emb.weight"));
    pass.read = sentence;
    return this.run(pass.start, pass, 0);
  }

  run(x, pass, first) {
    const { T, S } = this, p = this.apart ? this.get("ps_pos_emb.weight") : null;
    const [z, pz] = this.placed(pass.read ?? this.blank(), this.get("ss_pos_emb.weight"));
    for (let i = first; i < this.layers; i++) x = this.through(this.board[i], pass, `b${i}_`, x, p, T, z, pz, S, 0);
    return this.finish(x, pass);
  }

  /** ALN writes about IN's state z_out: pass.said, the words' numbers (S * G,), and pass.vectors (S, D), the words, or
   * the vectors themselves while a run has not started to use words. */
  write(pass) {
    const { T, S, G, D, wordSize } = this, state = pass.acts.get("z_out");
    let [x, p] = this.placed(this.get("ss_token_init.weight"), this.get("ss_pos_emb.weight"));
    const pz = this.apart ? this.get("ps_pos_emb.weight") : null;
    for (let i = 0; i < this.layers; i++) {
      x = this.through(this.sentence[i], pass, `ss_b${i}_`, x, p, S, state, pz, T, this.slotHeads);
    }
    x = pass.site("ss_z_out", layerNorm(x, this.norm("ss_ln_out"), D), S);
    pass.said = Array.from({ length: S * G }, (_, j) => this.nearest(x.subarray(j * wordSize, (j + 1) * wordSize)));
    pass.vectors = this.passing ? x : this.sentenceOf(pass.said);
  }

  /** The number of the word nearest to a vector (D / G,). */
  nearest(vector) {
    const { K, wordSize, words } = this;
    let best = 0, least = Infinity;
    for (let k = 0; k < K; k++) {
      let distance = 0;
      for (let i = 0; i < wordSize; i++) distance += words[k * wordSize + i] * (words[k * wordSize + i] - 2 * vector[i]);
      if (distance < least) [best, least] = [k, distance];
    }
    return best;
  }

  /** Words' numbers (S * G,), null where a word is removed, as vectors (S, D). A removed word is the blank one. */
  sentenceOf(said) { return this.vectorsOf(said, this.blank()); }

  /** Writes words side by side into a sentence (S, D), but for those that are null. */
  vectorsOf(said, sentence) {
    const { wordSize } = this;
    said.forEach((k, j) => { if (k !== null) sentence.set(this.words.subarray(k * wordSize, (k + 1) * wordSize), j * wordSize); });
    return sentence;
  }

  /** IN draws a board from a sentence (S, D) alone: every cell of the board is hidden. */
  fromSentence(sentence) { return this.picture(new Array(this.T).fill(this.V - 1), sentence); }

  stages(i, pass, before) {
    const get = (name) => pass.acts.get(`b${i}_${name}`);
    const afterSelf = added(before, get("selfAttn"));
    return [[`block ${i}, self-attention`, afterSelf],
            [`block ${i}, cross-attention`, added(afterSelf, get("crossAttn"))],
            [`block ${i}, MLP`, get("out")]];
  }
}

/** Rows of x (T, n) and of p (T, m) side by side, (T, n + m); x itself if p is null. */
function joined(x, p, T) {
  if (!p) return x;
  const n = x.length / T, m = p.length / T, out = new Float64Array(T * (n + m));
  for (let t = 0; t < T; t++) {
    out.set(x.subarray(t * n, (t + 1) * n), t * (n + m));
    out.set(p.subarray(t * m, (t + 1) * m), t * (n + m) + n);
  }
  return out;
}

/** The network of a run, by its kind. */
function networkOf(run) { return run.kind === "factor" ? new FactorNetwork(run) : new LeaNetwork(run); }
