// The ideal observer (parts/boards/ideal_observer.py): what somebody who knows the objects of a data set, and how its
// boards are made, can know of a masked board. It follows the Python file step by step.
//
// Axis letters: T cells, h = board side, d = side of a root's footprint, R = places of a root in a row, c hidden
// cells, V tokens. Token 0 stands for any background until the end.

const MOST_PICTURES = 400_000;  // more hypotheses than this would hold the page up; Python goes to 10 million

class Observer {
  constructor(data) {
    Object.assign(this, data.sizes);  // h, V, backgrounds, roots, d, options, composites, compDim, step, allowOverlap
    this.d2 = this.d * this.d;
    this.R = this.h - this.d + 1;
    this.composites_ = data.compositions;
    this.prior = data.prior;  // {type: weight x backgrounds / rows of its family}
    this.table = cellTable(data.roots, this);
  }

  /** What tokens (T,), hidden cells UNK, allow: {count, shares (T, V)}, {none: true} if no board fits, or {tooMany:
   * true}. A generator: it yields now and then, so that a page can paint between two parts of a long sum. */
  * answers(tokens, most = MOST_PICTURES) {
    const sight = new Sight(this, tokens);
    const seen = [...new Set(tokens)].filter((token) => token < this.backgrounds);
    const backgrounds = seen.length ? seen : Array.from({ length: this.backgrounds }, (_, i) => i);
    const sum = new Pictures(this, tokens, most);
    if (seen.length > 1) return { none: true };
    for (const [type, rows] of [[0, this.singles(sight)], [2, this.wholes(sight)], [1, this.doubles(sight, most)]]) {
      if (!this.prior[type]) continue;
      let k = 0;
      for (const row of rows) {
        if (row.tooMany) return { tooMany: true };
        sum.add(row.weight * this.prior[type], row.objects);
        if (sum.live > most) return { tooMany: true };
        if (++k % 1024 === 0) yield;
      }
    }
    if (sum.total === 0) return { none: true };
    return { count: sum.count(backgrounds.length), shares: sum.posterior(backgrounds) };
  }

  /** The answers of one call, without a pause. */
  answer(tokens, most = MOST_PICTURES) {
    const steps = this.answers(tokens, most);
    let step = steps.next();
    while (!step.done) step = steps.next();
    return step.value;
  }

  * singles(sight) {
    for (const [root, row, col, weight] of sight.fitting()) {
      if (sight.count[row * this.R + col] === sight.total) yield { weight, objects: [[root, row, col]] };
    }
  }

  * wholes(sight) {
    const places = this.h - ((this.compDim - 1) * this.step + this.d) + 1;
    for (const composition of this.composites_) {
      for (let row = 0; row < places; row++) for (let col = 0; col < places; col++) {
        let weight = 1, explained = 0;
        const objects = [];
        composition.forEach((root, k) => {
          if (root < 0) return;
          const at = [row + Math.floor(k / this.compDim) * this.step, col + (k % this.compDim) * this.step];
          weight *= sight.fit(root, ...at);
          explained += sight.count[at[0] * this.R + at[1]];
          objects.push([root, ...at]);
        });
        if (weight > 0 && explained === sight.total) yield { weight, objects };
      }
    }
  }

  * doubles(sight, most) {
    const over = sight.fitting();  // objects that nothing covers
    yield* this.apart(sight, over, most);
    if (!this.allowOverlap) return;
    for (let y = 1 - this.d; y < this.d; y++) for (let x = 1 - this.d; x < this.d; x++) {
      if (y && x) yield* this.overlapping(sight, over, y, x);
    }
  }

  /** Pairs of objects that are seen whole and explain all that is seen. */
  * apart(sight, over, most) {
    const byCount = new Map();  // objects by the tokens seen in them: only some pairs add up to the total
    for (const one of over) {
      const count = sight.count[one[1] * this.R + one[2]];
      if (!byCount.has(count)) byCount.set(count, []);
      byCount.get(count).push(one);
    }
    let pairs = 0;
    for (const [count, these] of byCount) pairs += these.length * (byCount.get(sight.total - count) ?? []).length;
    if (pairs > most) yield { tooMany: true };
    for (const [root1, row1, col1, weight1] of over) {
      const rest = sight.total - sight.count[row1 * this.R + col1];
      for (const [root2, row2, col2, weight2] of byCount.get(rest) ?? []) {
        const down = Math.abs(row1 - row2), right = Math.abs(col1 - col2);
        const apart = down >= this.d || right >= this.d;
        // where overlaps are allowed, no two objects share a row or a column
        if (!apart || (this.allowOverlap && (!down || !right))) continue;
        yield { weight: weight1 * weight2, objects: [[root1, row1, col1], [root2, row2, col2]] };
      }
    }
  }

  /** Pairs of an object y rows and x columns away from one of `over`, covered by it in part, and that one. */
  * overlapping(sight, over, y, x) {
    const { d, h, R } = this, free = [];
    for (let i = 0; i < d; i++) for (let j = 0; j < d; j++) {
      if (i + y < 0 || i + y >= d || j + x < 0 || j + x >= d) free.push([i, j]);
    }
    for (const [root, row, col, weight] of over) {
      const row1 = row + y, col1 = col + x;
      if (Math.min(row1, col1) < 0 || Math.max(row1, col1) >= R) continue;
      let explained = sight.count[row * R + col];
      for (const [i, j] of free) explained += sight.seen[(row1 + i) * h + col1 + j];
      if (explained !== sight.total) continue;
      for (let root1 = 0; root1 < this.roots; root1++) {
        let fit = 1;
        for (const [i, j] of free) fit *= sight.likely(root1, i * d + j, (row1 + i) * h + col1 + j);
        if (fit > 0) yield { weight: weight * fit, objects: [[root1, row1, col1], [root, row, col]] };
      }
    }
  }
}

/** Of each root's cells, and last the background: the probability of each token, and the tokens it may show. */
function cellTable(roots, { V }) {
  const cells = [...roots.flat(), [-1]];
  const options = cells.map((cell) => {
    const tokens = cell.filter((token) => token >= 0).sort((a, b) => b - a);
    return tokens.length ? tokens : [0];
  });
  const likely = new Float64Array(cells.length * V);
  options.forEach((tokens, cell) => {
    for (const token of tokens) likely[cell * V + token] = 1 / tokens.length;
    likely[cell * V + V - 1] = 1;  // a hidden cell fits whatever it hides
  });
  return { options, likely, background: cells.length - 1 };
}

/** What is seen of masked tokens (T,), and how well each root fits at each place. */
class Sight {
  constructor(observer, tokens) {
    const { h, d, d2, R, V, backgrounds } = observer;
    this.observer = observer;
    this.shown = tokens.map((token) => (token < backgrounds ? 0 : token));
    this.seen = tokens.map((token) => Number(token >= backgrounds && token < V - 1));
    this.total = this.seen.reduce((a, b) => a + b, 0);
    this.count = new Int32Array(R * R);  // object tokens seen in each window
    this.fits = new Float64Array(observer.roots * R * R);
    for (let row = 0; row < R; row++) for (let col = 0; col < R; col++) {
      for (let k = 0; k < d2; k++) this.count[row * R + col] += this.seen[(row + Math.floor(k / d)) * h + col + k % d];
      for (let root = 0; root < observer.roots; root++) {
        let fit = 1;
        for (let k = 0; k < d2 && fit > 0; k++) fit *= this.likely(root, k, (row + Math.floor(k / d)) * h + col + k % d);
        this.fits[(root * R + row) * R + col] = fit;
      }
    }
  }

  /** The probability that cell k of a root shows what is seen at a cell of the board. */
  likely(root, k, cell) {
    const { table, d2, V } = this.observer;
    return table.likely[(root * d2 + k) * V + this.shown[cell]];
  }

  fit(root, row, col) { return this.fits[(root * this.observer.R + row) * this.observer.R + col]; }

  /** [root, row, column, likelihood] of all objects that could be seen whole. */
  fitting() {
    const { R, roots } = this.observer, found = [];
    for (let root = 0; root < roots; root++) for (let row = 0; row < R; row++) for (let col = 0; col < R; col++) {
      const fit = this.fit(root, row, col);
      if (fit > 0) found.push([root, row, col, fit]);
    }
    return found;
  }
}

/** The sum over hypotheses: how much each root's cell is expected at each hidden cell, and which pictures occur. */
class Pictures {
  constructor(observer, tokens, most) {
    Object.assign(this, { observer, tokens, most });
    this.hidden = [...tokens.keys()].filter((t) => tokens[t] === observer.V - 1);
    this.cells = observer.table.background + 1;
    this.expected = new Float64Array(this.hidden.length * this.cells);
    this.covers = new Int32Array(tokens.length);
    this.pictures = new Map();  // the hidden cells' tokens, as a text -> whether one is a background
    this.total = this.live = 0;
  }

  add(weight, objects) {
    const { h, d, d2, table } = this.observer;
    this.covers.fill(table.background);
    for (const [root, row, col] of objects) {  // later ones lie over earlier ones
      for (let k = 0; k < d2; k++) this.covers[(row + Math.floor(k / d)) * h + col + k % d] = root * d2 + k;
    }
    this.total += weight;
    const options = this.hidden.map((t, c) => {
      this.expected[c * this.cells + this.covers[t]] += weight;
      return table.options[this.covers[t]];
    });
    this.live += options.reduce((ways, tokens) => ways * tokens.length, 1);
    if (this.live <= this.most) this.note(options, 0, "", false);
  }

  /** Notes every picture that options (c lists of tokens) allow: fuzzy cells may show one of several tokens. */
  note(options, c, text, background) {
    while (c < options.length && options[c].length === 1) {
      text += String.fromCharCode(options[c][0]);
      background ||= options[c][0] === 0;
      c++;
    }
    if (c === options.length) this.pictures.set(text, background);
    else for (const token of options[c]) this.note(options, c + 1, text + String.fromCharCode(token), background);
  }

  /** How many boards are possible: a picture with a background cell is one board for each background. */
  count(backgrounds) {
    let count = 0;
    for (const background of this.pictures.values()) count += background ? backgrounds : 1;
    return count;
  }

  /** Probabilities (T, V), visible cells certain. */
  posterior(backgrounds) {
    const { V, table } = this.observer, out = new Float64Array(this.tokens.length * V);
    this.tokens.forEach((token, t) => { if (token !== V - 1) out[t * V + token] = 1; });
    this.hidden.forEach((t, c) => {
      for (let cell = 0; cell < this.cells; cell++) {
        const weight = this.expected[c * this.cells + cell] / this.total;
        if (!weight) continue;
        const tokens = table.options[cell];
        for (const token of tokens) {
          if (token !== 0) out[t * V + token] += weight / tokens.length;
          else for (const bck of backgrounds) out[t * V + bck] += weight / backgrounds.length;
        }
      }
    });
    return out;
  }
}
