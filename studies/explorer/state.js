// What the visitor has made: the board, what is hidden, the chosen cell, runs, edits, donor and words. The URL's
// fragment holds all of it, so that a link is a view.

const PANELS = ["easy", "attention", "lens", "edit", "words"];
const HOWS = ["zero", "mean", "donor"];
const UNDO_STEPS = 200;
const MOST_EDITS = 40;  // of a link

class State {
  constructor(runs) {
    this.runs = runs;  // {name: run}
    this.names = Object.keys(runs);
    this.past = [];
    this.future = [];
    this.run = this.names[0];
    this.beside = "";  // a second run's name, "untrained", or "" for none
    this.open = new Set();
    this.reset();
  }

  get boards() { return this.runs[this.run].boards; }

  get masked() { return this.boards.masked(this.tokens, this.mask); }

  /** A held-out board with half of it hidden, always the same: what a first visitor sees. */
  reset() {
    const { boards } = this, draw = generator(1);
    const rows = boards.data.rows, split = rows.test.some((list) => list.length) ? rows.test : rows.train;
    const type = split[1].length ? 1 : split.findIndex((list) => list.length);
    this.tokens = boards.fromRow(split[type][0], type);
    this.mask = this.tokens.map(() => Number(draw() < 0.55));
    const other = split[type].at(-1);
    this.donor = boards.fromRow(other, type);
    this.cell = Math.max(0, this.tokens.findIndex((token, t) => this.mask[t] && token >= boards.backgrounds));
    this.edits = [];
    this.words = {};  // {place in the sentence: a word's number, or null for a removed word}
    this.past.length = this.future.length = 0;
  }

  /** Shows a run. Boards of other sizes cannot stay. */
  choose(name) {
    const before = this.boards.data.sizes;
    this.run = name;
    this.edits = [];
    this.words = {};
    const sizes = this.boards.data.sizes;
    if (["h", "V", "backgrounds"].some((key) => sizes[key] !== before[key])) this.reset();
  }

  /** Changes the board or the mask; what was before can be undone. */
  change(tokens, mask) {
    this.past.push([this.tokens, this.mask]);
    if (this.past.length > UNDO_STEPS) this.past.shift();
    this.future.length = 0;
    [this.tokens, this.mask] = [tokens, mask];
    this.words = {};
  }

  undo() { this.step(this.past, this.future); }

  redo() { this.step(this.future, this.past); }

  step(from, to) {
    if (!from.length) return;
    to.push([this.tokens, this.mask]);
    [this.tokens, this.mask] = from.pop();
    this.words = {};
  }

  /** The whole state as plain values: what the URL fragment holds and "copy as JSON" gives. */
  values() {
    return { run: this.run, beside: this.beside, tokens: [...this.tokens], masks: [...this.mask], cell: this.cell,
             edits: this.edits.map((edit) => ({ ...edit })), donor: [...this.donor], words: { ...this.words },
             open: [...this.open] };
  }

  /** The state as a URL fragment, e.g. run=lea&board=1.1.5...&mask=0010...&cell=3. */
  fragment() {
    const edits = this.edits.map(({ name, how, cells, head }) => (
      [name, how, cells ? cells.join(".") : "all", head ?? "all"].join(":")));
    const words = Object.entries(this.words).map(([place, word]) => `${place}:${word ?? "none"}`);
    const parts = { run: this.run, board: this.tokens.join("."), mask: this.mask.join(""), cell: this.cell,
                    donor: this.donor.join("."), beside: this.beside, edits: edits.join(";"), words: words.join(";"),
                    open: [...this.open].join(".") };
    const given = Object.entries(parts).filter(([, value]) => value !== "");
    return given.map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&");
  }

  /** Takes a fragment. Returns what could not be read, as sentences; such parts stay as they are. */
  take(fragment) {
    const problems = [], parts = new URLSearchParams(fragment);
    const part = (key, what, read) => {
      const text = parts.get(key);
      if (text === null) return;
      try {
        read(text);
      } catch {
        problems.push(`The link's ${what} does not fit this page and was left out.`);
      }
    };
    part("run", "run", (text) => this.choose(oneOf(text, this.names)));
    const { T, V, h } = this.boards;
    part("beside", "second run", (text) => { this.beside = oneOf(text, [...this.names, "untrained"]); });
    part("board", "board", (text) => { this.tokens = numbers(text, T, V - 1); });
    part("mask", "mask", (text) => { this.mask = numbers([...text].join("."), T, 2); });
    part("cell", "cell", (text) => { this.cell = numbers(text, 1, h * h)[0]; });
    part("donor", "donor", (text) => { this.donor = numbers(text, T, V - 1); });
    part("edits", "list of edits", (text) => {
      const edits = text.split(";");
      if (edits.length > MOST_EDITS) throw new RangeError();
      this.edits = edits.map((one) => this.readEdit(one));
    });
    part("words", "words", (text) => { this.words = this.readWords(text); });
    part("open", "list of panels", (text) => {
      this.open = new Set(text.split(".").map((name) => oneOf(name, PANELS)));
    });
    return problems;
  }

  readEdit(text) {
    const [name, how, cells, head, ...rest] = text.split(":"), { network, sizes } = this.runs[this.run];
    if (rest.length || (head !== "all" && !network.hasHeads(name))) throw new RangeError();
    return { name: oneOf(name, network.activationNames()), how: oneOf(how, HOWS),
             cells: cells === "all" ? null : numbers(cells, cells.split(".").length, network.rowsOf(name)),
             head: head === "all" ? null : numbers(head, 1, sizes.H)[0] };
  }

  readWords(text) {
    const speaker = speakerOf(this);
    if (!speaker) throw new RangeError();
    return Object.fromEntries(text.split(";").map((one) => {
      const [place, word] = one.split(":");
      return [numbers(place, 1, speaker.sizes.S * speaker.sizes.G)[0], word === "none" ? null : numbers(word, 1, speaker.sizes.K)[0]];
    }));
  }
}

/** The run whose words are shown: the chosen run if it is of LEA, else the first of LEA with such boards. */
function speakerOf(state) {
  const all = [state.runs[state.run], ...Object.values(state.runs)], own = all[0].sizes;
  return all.find(({ kind, sizes }) => kind !== "factor" && sizes.T === own.T && sizes.V === own.V) ?? null;
}

/** text, if it is one of the choices. */
function oneOf(text, choices) {
  if (!choices.includes(text)) throw new RangeError();
  return text;
}

/** "3.14.15" as count whole numbers below end. */
function numbers(text, count, end) {
  const found = text.split(".");
  if (found.length !== count || !found.every((one) => /^\d{1,6}$/.test(one) && Number(one) < end)) throw new RangeError();
  return found.map(Number);
}
