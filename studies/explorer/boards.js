// What a board of a data set is (module_dataset.py): drawing boards from rows, finding objects, hiding cells.
//
// A row is [root, row, col, background], [root1, row1, col1, root2, row2, col2, background] or [composite, row, col,
// background], as in Python's tables. Tokens and masks are flat arrays (T,), in reading order.

class BoardSet {
  constructor(data) {
    this.data = data;
    Object.assign(this, data.sizes);
    this.T = this.h * this.h;
    this.hidden = this.V - 1;  // the UNK token
  }

  /** The cells of a root's footprint at a place, with the tokens that each may show; [] is a hole. */
  footprint(root, row, col) {
    return this.data.roots[root].map((tokens, k) => (
      { cell: (row + Math.floor(k / this.d)) * this.h + col + (k % this.d), tokens: tokens.filter((t) => t >= 0) }));
  }

  /** The objects [root, row, col] that a composite consists of. */
  parts(composite, row, col) {
    return this.data.compositions[composite].map((root, k) => (
      [root, row + Math.floor(k / this.compDim) * this.step, col + (k % this.compDim) * this.step]))
      .filter(([root]) => root >= 0);
  }

  /** Puts an object on tokens; its holes show the background, and a fuzzy cell one of its tokens. */
  put(tokens, [root, row, col], background) {
    for (const { cell, tokens: options } of this.footprint(root, row, col)) {
      tokens[cell] = options.length ? options[Math.floor(Math.random() * options.length)] : background;
    }
  }

  /** A random board of a split, or null if there is none. */
  random(split) {
    const choices = this.data.rows[split].flatMap((rows, type) => (rows.length ? [{ rows, type }] : []));
    if (!choices.length) return null;
    const { rows, type } = choices[Math.floor(Math.random() * choices.length)];
    return this.fromRow(rows[Math.floor(Math.random() * rows.length)], type);
  }

  fromRow(row, type) {
    const background = row.at(-1), tokens = new Array(this.T).fill(background);
    const objects = type === 2 ? this.parts(...row) : type === 1 ? [row.slice(0, 3), row.slice(3, 6)] : [row.slice(0, 3)];
    for (const object of objects) this.put(tokens, object, background);
    return tokens;
  }

  /** Side of what is stamped, in cells. */
  sideOf(stamp) { return stamp.composite === undefined ? this.d : this.d + (this.compDim - 1) * this.step; }

  /** tokens with a stamp, {root} or {composite}, whose top left cell is as near to a cell as the board allows. */
  stamped(tokens, stamp, cell) {
    const last = this.h - this.sideOf(stamp), out = [...tokens];
    if (last < 0) return out;
    const row = Math.min(Math.floor(cell / this.h), last), col = Math.min(cell % this.h, last);
    const objects = stamp.composite === undefined ? [[stamp.root, row, col]] : this.parts(stamp.composite, row, col);
    for (const object of objects) this.put(out, object, this.background(tokens));
    return out;
  }

  /** The commonest background of a board, 0 if it shows none. */
  background(tokens) {
    const counts = new Array(this.backgrounds).fill(0);
    for (const token of tokens) if (token < this.backgrounds) counts[token]++;
    return argmax(counts, 0, this.backgrounds);
  }

  /** Objects [root, row, col] whose tokens are all to be seen on a board. */
  objects(tokens) {
    const found = [], R = this.h - this.d + 1;
    for (let root = 0; root < this.roots; root++) for (let row = 0; row < R; row++) for (let col = 0; col < R; col++) {
      const fits = ({ cell, tokens: options }) => !options.length || options.includes(tokens[cell]);
      if (this.footprint(root, row, col).every(fits)) found.push([root, row, col]);
    }
    return found;
  }

  /** The cells of the object at a cell, else of any object, else none. */
  objectCells(tokens, cell) {
    const cells = this.objects(tokens).map((object) => this.footprint(...object).map((one) => one.cell));
    return cells.find((these) => these.includes(cell)) ?? cells[Math.floor(Math.random() * cells.length)] ?? [];
  }

  /** The cells of a d x d window anywhere. */
  patchCells() {
    const place = () => Math.floor(Math.random() * (this.h - this.d + 1)), row = place(), col = place();
    return this.footprint(0, row, col).map((one) => one.cell);
  }

  masked(tokens, mask) { return tokens.map((token, t) => (mask[t] ? this.hidden : token)); }

  /** A cell in words: rows and columns count from 1, as people do. */
  place(cell) { return `row ${Math.floor(cell / this.h) + 1}, column ${(cell % this.h) + 1}`; }

  /** A token in words. */
  tokenName(token) {
    return token === this.hidden ? "hidden" : `${token < this.backgrounds ? "background" : "token"} ${token}`;
  }
}
