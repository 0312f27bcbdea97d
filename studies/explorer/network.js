// GPTFactor (module_transformer_factor.py) in plain JavaScript, and the arithmetic that LEA shares with it.
//
// Axis letters: T tokens of a board, D numbers of the residual stream, P of a position code, H heads, V tokens of
// the vocabulary. An activation is a flat Float64Array, rows first: (T, D), attention weights (H, T, keys).
// Float64Array because V8 computes in float64 anyway: loading float32 would convert every number, at half the speed.

/** Bytes of a base64 text. */
function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** Half-precision numbers, as 16-bit words, as ordinary ones. Node 20 has no Float16Array, so it is done by hand. */
function halfToDouble(words) {
  const out = new Float64Array(words.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i], exponent = (word >> 10) & 31, fraction = word & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24  // subnormal
      : exponent === 31 ? (fraction ? NaN : Infinity)
        : (1 + fraction / 1024) * 2 ** (exponent - 15);
    out[i] = word >> 15 ? -size : size;
  }
  return out;
}

/** The named arrays of a run, {name: {data, shape}}, from what export.py packed. */
function unpack(packed) {
  const bytes = bytesOf(packed.blob);
  const all = packed.dtype === "float16" ? halfToDouble(new Uint16Array(bytes.buffer))
    : Float64Array.from(new Float32Array(bytes.buffer));
  const arrays = {};
  let start = 0;
  for (const [name, shape] of packed.shapes) {
    const size = shape.reduce((a, b) => a * b, 1);
    arrays[name] = { data: all.subarray(start, start + size), shape };
    start += size;
  }
  return arrays;
}

/** x (T, n) by weights (m, n), plus bias: (m,) for every token, or (T, m) -> (T, m).
 *
 * Two tokens by four outputs at a time stay in registers. Where T or m is not a multiple, the last tile overlaps
 * the one before it and computes some numbers twice, to the same result. */
function linear(x, weights, bias, T, n, m) {
  const out = new Float64Array(T * m);
  if (m < 4) {
    for (let t = 0; t < T; t++) for (let j = 0; j < m; j++) {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += x[t * n + i] * weights[j * n + i];
      out[t * m + j] = sum;
    }
  } else {
    for (let t = 0; t < T; t += 2) {
      const a = t * n, other = Math.min(t + 1, T - 1), b = other * n;
      for (let tile = 0; tile < m; tile += 4) {
        const j = Math.min(tile, m - 4), w0 = j * n, w1 = w0 + n, w2 = w1 + n, w3 = w2 + n;
        let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
        for (let i = 0; i < n; i++) {
          const p = x[a + i], q = x[b + i];
          const u0 = weights[w0 + i], u1 = weights[w1 + i], u2 = weights[w2 + i], u3 = weights[w3 + i];
          a0 += p * u0; a1 += p * u1; a2 += p * u2; a3 += p * u3;
          b0 += q * u0; b1 += q * u1; b2 += q * u2; b3 += q * u3;
        }
        let k = t * m + j;
        out[k] = a0; out[k + 1] = a1; out[k + 2] = a2; out[k + 3] = a3;
        k = other * m + j;
        out[k] = b0; out[k + 1] = b1; out[k + 2] = b2; out[k + 3] = b3;
      }
    }
  }
  if (bias) {
    const perToken = bias.length === T * m;
    for (let k = 0; k < out.length; k++) out[k] += bias[perToken ? k : k % m];
  }
  return out;
}

/** LayerNorm of the rows of x (rows, n), with torch's epsilon. */
function layerNorm(x, { weight, bias }, n) {
  const out = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += n) {
    let mean = 0, variance = 0;
    for (let i = 0; i < n; i++) mean += x[start + i];
    mean /= n;
    for (let i = 0; i < n; i++) variance += (x[start + i] - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / n + 1e-5);
    for (let i = 0; i < n; i++) out[start + i] = (x[start + i] - mean) * scale * weight[i] + bias[i];
  }
  return out;
}

// The normal distribution function and its density at multiples of 1/128 up to 8, by Marsaglia's series. Between them
// `gelu` interpolates with cubics, to 3e-11: an activation of 600 leaves no room for the usual short formulas for erf.
const STEPS = 128;
const NORMAL = Float64Array.from({ length: 8 * STEPS + 2 }, (_, k) => {
  const x = k / STEPS;
  let sum = x, term = x;
  for (let i = 3; term > 1e-18 * sum; i += 2) sum += term *= x * x / i;
  return 0.5 + sum * Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
});
const DENSITY = NORMAL.map((_, k) => Math.exp(-((k / STEPS) ** 2) / 2) / Math.sqrt(2 * Math.PI) / STEPS);

/** Exact GELU in place: x times the normal distribution function of x. */
function gelu(x) {
  for (let i = 0; i < x.length; i++) {
    const size = Math.abs(x[i]);
    let share = 1;
    if (size < 8) {
      const k = Math.trunc(size * STEPS), u = size * STEPS - k, v = 1 - u;
      share = NORMAL[k] * (1 + 2 * u) * v * v + NORMAL[k + 1] * (3 - 2 * u) * u * u
        + (DENSITY[k] * v - DENSITY[k + 1] * u) * u * v;
    }
    x[i] *= x[i] < 0 ? 1 - share : share;
  }
  return x;
}

function added(x, y) {
  const out = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) out[i] = x[i] + y[i];
  return out;
}

/** Softmax, in place, of the row of n numbers that begins at start. */
function softmaxRow(x, start, n) {
  let top = -Infinity, sum = 0;
  for (let i = start; i < start + n; i++) if (x[i] > top) top = x[i];
  for (let i = start; i < start + n; i++) sum += x[i] = Math.exp(x[i] - top);
  for (let i = start; i < start + n; i++) x[i] /= sum;
}

/** Logits (T, V) -> probabilities (T, V). */
function probabilities(logits, V) {
  const out = Float64Array.from(logits);
  for (let start = 0; start < out.length; start += V) softmaxRow(out, start, V);
  return out;
}

/** The index of the largest of n numbers from start on; of several, the first. */
function argmax(x, start, n) {
  let best = 0;
  for (let i = 1; i < n; i++) if (x[start + i] > x[start + best]) best = i;
  return best;
}

/** One forward pass: it makes the edits and keeps every named activation, as it is used downstream.
 *
 * An edit: {name, value, cells, head}. value has the activation's shape; cells: Uint8Array over its tokens, 1 at
 * those to change, null for all; head: the only head to change, null for all. */
class Pass {
  constructor(heads, edits = []) {
    this.heads = heads;
    this.edits = edits;
    this.acts = new Map();
  }

  /** Passes the activation x (T, ...) called name on, after its edits. */
  site(name, x, T) {
    for (const edit of this.edits) if (edit.name === name) x = this.edited(x, edit, T);
    this.acts.set(name, x);
    return x;
  }

  edited(x, { name, value, cells, head }, T) {
    const out = Float64Array.from(x), attention = name.endsWith("_a");
    // attention weights have heads first; elsewhere heads lie side by side in a row
    const blocks = attention ? this.heads : 1, n = x.length / T / blocks, d = n / this.heads;
    for (let block = 0; block < blocks; block++) {
      if (attention && head !== null && head !== block) continue;
      const [from, to] = attention || head === null ? [0, n] : [head * d, (head + 1) * d];
      for (let t = 0; t < T; t++) {
        if (cells && !cells[t]) continue;
        const start = (block * T + t) * n;
        for (let i = from; i < to; i++) out[start + i] = value[start + i];
      }
    }
    return out;
  }
}

/** Heads' outputs (T, D) of queries q (T, D) over keys and values (S, D). allowed: (T, S), 0 where a query must not
 * look, or null. slotHeads: in how many heads, the first ones, queries compete for keys before they are normalised
 * (slot attention, arXiv 2006.15055). */
function attend(pass, name, q, k, v, T, S, D, allowed = null, slotHeads = 0) {
  const H = pass.heads, d = D / H, scale = 1 / Math.sqrt(d);
  let weights = new Float64Array(H * T * S);
  for (let h = 0; h < H; h++) {
    const part = new Float64Array(T * d), keys = new Float64Array(S * d);
    for (let t = 0; t < T; t++) for (let i = 0; i < d; i++) part[t * d + i] = q[t * D + h * d + i] * scale;
    for (let s = 0; s < S; s++) for (let i = 0; i < d; i++) keys[s * d + i] = k[s * D + h * d + i];
    const scores = linear(part, keys, null, T, d, S);
    if (allowed) for (let i = 0; i < scores.length; i++) if (!allowed[i]) scores[i] = -Infinity;
    if (h < slotHeads) competing(scores, T, S);
    for (let t = 0; t < T; t++) softmaxRow(scores, t * S, S);
    weights.set(scores, h * T * S);
  }
  weights = pass.site(`${name}a`, weights, T);
  v = pass.site(`${name}v`, v, S);
  const out = new Float64Array(T * D);
  for (let h = 0; h < H; h++) {
    const values = new Float64Array(d * S);  // turned, so that `linear` sums over keys
    for (let s = 0; s < S; s++) for (let i = 0; i < d; i++) values[i * S + s] = v[s * D + h * d + i];
    const head = linear(weights.subarray(h * T * S, (h + 1) * T * S), values, null, T, S, d);
    for (let t = 0; t < T; t++) for (let i = 0; i < d; i++) out[t * D + h * d + i] = head[t * d + i];
  }
  return pass.site(`${name}attn_v`, out, T);
}

/** Scores (T, S) become, in place, logarithms of each query's share of a key. */
function competing(scores, T, S) {
  for (let s = 0; s < S; s++) {
    let top = -Infinity, sum = 0;
    for (let t = 0; t < T; t++) top = Math.max(top, scores[t * S + s]);
    for (let t = 0; t < T; t++) sum += Math.exp(scores[t * S + s] - top);
    for (let t = 0; t < T; t++) scores[t * S + s] -= top + Math.log(sum);
  }
}

/** What both networks have in common: arrays by name, names of activations, the logit lens. A subclass sets
 * lnOut and head, and the lists that say how its activations are called. */
class BoardNetwork {
  constructor(run) {
    Object.assign(this, run.sizes);  // T, V, D, P, H, layers; of LEA also S, G, K
    this.arrays = run.untrained ? initialArrays(unpack(run), run.seeds) : unpack(run);
  }

  get(name) { return this.arrays[name].data; }

  norm(name) { return { weight: this.get(`${name}.weight`), bias: this.get(`${name}.bias`) }; }

  affine(name) {
    const { data, shape: [outputs, inputs] } = this.arrays[`${name}.weight`];
    return { weights: data, bias: this.get(`${name}.bias`), inputs, outputs };
  }

  apply({ weights, bias, inputs, outputs }, x, T = this.T) { return linear(x, weights, bias, T, inputs, outputs); }

  /** Rows of a table (n, D), one for each of the tokens. */
  rows(name, tokens) {
    const { data, shape: [, D] } = this.arrays[name], x = new Float64Array(tokens.length * D);
    tokens.forEach((token, t) => x.set(data.subarray(token * D, (token + 1) * D), t * D));
    return x;
  }

  /** The activations of a board that can be edited, in the order in which they are computed. */
  activationNames() {
    return this.streams.flatMap(([prefix, , ends]) => [
      ...Array.from({ length: this.layers }, (_, i) => this.parts.map((part) => `${prefix}b${i}_${part}`)).flat(), ...ends]);
  }

  /** Whether the rows of an activation, of attention weights its queries, are words of a sentence, not cells. */
  isOfWords() { return false; }

  rowsOf(name) { return this.isOfWords(name) ? this.S : this.T; }

  /** The block in which an activation is computed; the number of blocks for what comes after them. */
  blockOf(name) {
    const found = /^b(\d+)_/.exec(name);
    return found ? Number(found[1]) : this.layers;
  }

  /** Whether an activation consists of heads. */
  hasHeads(name) { return /_(a|v|attn_v)$/.test(name); }

  /** The last LayerNorm and the head: the end of every pass. */
  finish(x, pass) {
    const state = pass.site("z_out", layerNorm(x, this.lnOut, this.D), this.T);
    pass.logits = pass.site("logit", linear(state, this.head, null, this.T, this.D, this.V), this.T);
    return pass;
  }

  /** A pass with one edit; only the blocks that the edit can change are computed again. */
  patched(base, edit) {
    const first = this.blockOf(edit.name), pass = new Pass(this.H, [edit]);
    if (edit.name === `b${first}_${this.blockOutput}`) {  // what a block gives out changes only what comes after it
      return this.run(pass.site(edit.name, base.acts.get(edit.name), this.T), pass, first + 1);
    }
    const x = first === 0 ? base.start : base.acts.get(`b${first - 1}_${this.blockOutput}`);
    return this.run(x, pass, first);
  }

  /** Names and values (T, D) of the residual stream: after the embedding, and after each sub-layer. */
  residual(pass) {
    const stages = [["embedding", pass.start]];
    for (let i = 0; i < this.layers; i++) {
      for (const [title, activation] of this.stages(i, pass, stages.at(-1)[1])) stages.push([title, activation]);
    }
    return stages;
  }

  /** Logits (T, V) if the last LayerNorm and the head read a stage of the residual stream (the logit lens). */
  readOut(x) { return linear(layerNorm(x, this.lnOut, this.D), this.head, null, this.T, this.D, this.V); }
}

class FactorNetwork extends BoardNetwork {
  constructor(run) {
    super(run);
    this.parts = ["z", "a", "v", "attn_v", "attn_update", "z_attn", "mlp_in", "mlp_update", "z_attn_mlp"];
    this.streams = [["", "block", ["z_out", "logit"]]];  // prefix of the names, title of a block, what comes after blocks
    this.blockOutput = "z_attn_mlp";
    this.attentionMaps = { "attention": "a" };
    this.switches = { head: ["attn_v"], mlp: "mlp_update" };
    const position = this.get("pos_emb");
    this.blocks = Array.from({ length: this.layers }, (_, i) => {
      const at = `blocks.${i}.`, mask = this.arrays[`${at}attn.mask`];
      return {
        ln1: this.norm(`${at}ln1`), ln2: this.norm(`${at}ln2`),
        query: this.reading(`${at}attn.query`, position), key: this.reading(`${at}attn.key`, position),
        value: this.reading(`${at}attn.value`, position), proj: this.affine(`${at}attn.proj`),
        into: this.reading(`${at}mlp.0`, position), outOf: this.affine(`${at}mlp.2`),
        allowed: mask ? mask.data : null,  // export.py leaves out a mask that allows everything
      };
    });
    this.lnOut = this.norm("ln_f");
    this.head = this.get("head.weight");
  }

  /** A layer that reads [z, p]. As p is the same on every board, its share is computed here, once. */
  reading(name, position) {
    const { weights, bias, outputs } = this.affine(name), { D, P, T } = this, width = D + P;
    const own = new Float64Array(outputs * D), rest = new Float64Array(outputs * P);
    for (let j = 0; j < outputs; j++) {
      own.set(weights.subarray(j * width, j * width + D), j * D);
      rest.set(weights.subarray(j * width + D, (j + 1) * width), j * P);
    }
    return { weights: own, bias: linear(position, rest, bias, T, P, outputs), inputs: D, outputs };
  }

  /** A forward pass over tokens (T,) with edits. */
  forward(tokens, edits = []) {
    const pass = new Pass(this.H, edits);
    pass.start = this.rows("tok_emb.weight", tokens);
    return this.run(pass.start, pass, 0);
  }

  /** The residual stream x (T, D) through the blocks from number first on. */
  run(x, pass, first) {
    const { T, D } = this;
    for (let i = first; i < this.layers; i++) {
      const block = this.blocks[i], site = (name, value) => pass.site(`b${i}_${name}`, value, T);
      const z = site("z", layerNorm(x, block.ln1, D));
      const [q, k, v] = [block.query, block.key, block.value].map((layer) => this.apply(layer, z));
      const heads = attend(pass, `b${i}_`, q, k, v, T, T, D, block.allowed);
      x = site("z_attn", added(x, site("attn_update", this.apply(block.proj, heads))));
      const hidden = gelu(this.apply(block.into, site("mlp_in", layerNorm(x, block.ln2, D))));
      x = site("z_attn_mlp", added(x, site("mlp_update", this.apply(block.outOf, hidden))));
    }
    return this.finish(x, pass);
  }

  stages(i, pass) {
    return [[`block ${i}, attention`, pass.acts.get(`b${i}_z_attn`)],
            [`block ${i}, MLP`, pass.acts.get(`b${i}_z_attn_mlp`)]];
  }
}

/** The weights that training started from, in the place of trained arrays: init_weights and the codebook of LEA's
 * constructor. seeds: what torch's generators started from, of the weights and of the codebook. */
function initialArrays(arrays, seeds) {
  const [random, words] = seeds.map(torchRandom);
  for (const [name, array] of Object.entries(arrays)) {  // in the order of the state dict
    const { data, shape } = array, codebook = name.startsWith("ss_vector_quantizer.");
    if (name.endsWith("attn.mask")) continue;
    if (shape.length === 2) array.data = normal(codebook ? words : random, data.length, 0.02);
    else data.fill(shape.length === 1 && name.endsWith("weight") ? 1 : 0);  // 1: a LayerNorm's
  }
  return arrays;
}

/** torch's generator on a CPU, MT19937: a function that draws 32 random bits. */
function torchRandom(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = 624;
  return () => {
    if (at === 624) {
      at = 0;
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return y ^ (y >>> 18);
  };
}

/** What torch's normal_ draws for n >= 16 float32 numbers: Box-Muller over groups of 16; a last group that is not whole
 * is drawn again, over the last 16 numbers. */
function normal(random, n, std) {
  const x = new Float64Array(n);
  const uniform = (from) => { for (let i = from; i < n; i++) x[i] = (random() & 0xffffff) / 2 ** 24; };
  const group = (start) => {
    for (let i = start; i < start + 8; i++) {
      const radius = std * Math.sqrt(-2 * Math.log(1 - x[i])), angle = 2 * Math.PI * x[i + 8];
      [x[i], x[i + 8]] = [radius * Math.cos(angle), radius * Math.sin(angle)];
    }
  };
  uniform(0);
  for (let start = 0; start + 16 <= n; start += 16) group(start);
  if (n % 16) {
    uniform(n - 16);
    group(n - 16);
  }
  return x;
}

/** A generator of numbers in [0, 1) from a whole number (mulberry32). */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = state;
    x = Math.imul(x ^ (x >>> 15), x | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}
