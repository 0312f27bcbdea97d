// What is drawn: boards as grids that the keyboard and a screen reader can use, maps and small boards as pictures.

/** An element with properties, attributes (names with a dash, role, for) and children. */
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && !name.includes("-")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const byId = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)}%`;

/** A share in few characters: 97, or 0 to 100. */
const short = (share) => String(Math.round(100 * share));

// Colours and shapes. A token is told by its number, by its shape and by its colour, in this order.

const SHAPES = 10;  // classes shape0 ... shape9 of the stylesheet

/** Relative luminance of #rrggbb, as WCAG defines it. */
function luminance(color) {
  const [r, g, b] = [1, 3, 5].map((i) => {
    const c = parseInt(color.slice(i, i + 2), 16) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Black or white, whichever is easier to read on a colour. */
const inkOn = (color) => (luminance(color) > 0.179 ? "#000000" : "#ffffff");

const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

/** The grey of a background token. */
function backgroundColor(token, boards) {
  const share = token / Math.max(1, boards.backgrounds - 1);
  const level = Math.round(isDark() ? 52 + 38 * share : 246 - 50 * share);
  return `#${[level, level, level + 6].map((c) => c.toString(16).padStart(2, "0")).join("")}`;
}

/** Fill and text colour of a token. */
function tokenColors(token, boards) {
  const fill = token < boards.backgrounds ? backgroundColor(token, boards)
    : boards.data.colors[token - boards.backgrounds] ?? "#303030";
  return [fill, inkOn(fill)];
}

// Grids

/** A board as an ARIA grid. options: title (its accessible name), act(cell, event) for Enter, Space and the pointer,
 * drag: whether a pointer that moves on acts again, focus(cell) when the keyboard moves to a cell. */
class Grid {
  constructor(host, side, { title, act = () => {}, drag = false, focus = () => {} }) {
    Object.assign(this, { side, act, focus, host });
    this.cells = [];
    const rows = Array.from({ length: side }, (_, row) => element("div", { role: "row", className: "row" },
      ...Array.from({ length: side }, (_, col) => this.cell(row * side + col))));
    this.node = element("div", { role: "grid", className: "grid", "aria-label": title }, ...rows);
    this.node.style.setProperty("--side", side);
    if (drag) this.node.classList.add("paintable");
    host.replaceChildren(this.node);
    this.node.addEventListener("keydown", (event) => this.key(event));
    this.node.addEventListener("pointerdown", (event) => this.pointer(event, true));
    if (drag) this.node.addEventListener("pointermove", (event) => this.pointer(event, false));
    this.current = -1;
    this.select(0);
  }

  cell(index) {
    const node = element("div", { role: "gridcell", className: "cell", tabIndex: -1 });
    node.dataset.cell = index;
    node.token = node.appendChild(element("span", { className: "token", ariaHidden: "true" }));
    node.note = node.appendChild(element("span", { className: "note", ariaHidden: "true" }));
    // the cell's name, for screen readers: an aria-label would have to repeat the numbers that are to be seen
    node.label = node.appendChild(element("span", { className: "unseen" }));
    this.cells.push(node);
    return node;
  }

  /** Draws cells: {token, text, note, kind, label} each. Only what has changed is touched. */
  draw(cells, boards) {
    const theme = isDark();
    cells.forEach((cell, i) => {
      const node = this.cells[i], key = `${cell.token}|${cell.text}|${cell.note}|${cell.kind}|${cell.label}|${theme}`;
      if (node.key === key) return;
      node.key = key;
      paintToken(node, cell, boards);
    });
  }

  select(index) {
    if (index === this.current) return;
    if (this.current >= 0) {
      this.cells[this.current].tabIndex = -1;
      this.cells[this.current].setAttribute("aria-selected", "false");
    }
    this.current = index;
    this.cells[index].tabIndex = 0;
    this.cells[index].setAttribute("aria-selected", "true");
  }

  key(event) {
    const { current, side } = this, row = Math.floor(current / side), col = current % side;
    const moves = { ArrowLeft: [row, col - 1], ArrowRight: [row, col + 1], ArrowUp: [row - 1, col],
                    ArrowDown: [row + 1, col], Home: [row, 0], End: [row, side - 1] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) {
      const [r, c] = moves[event.key].map((x) => Math.min(Math.max(x, 0), side - 1));
      this.select(r * side + c);
      this.cells[r * side + c].focus();
      this.focus(r * side + c);
    } else if (event.key === "Enter" || event.key === " ") this.act(current, event);
    else return;
    event.preventDefault();
  }

  pointer(event, first) {
    if (event.button > 0 || (!first && event.buttons !== 1)) return;
    // a touch keeps to the cell where it began, so the cell is looked up by place
    const node = document.elementFromPoint(event.clientX, event.clientY)?.closest(".cell");
    if (!node || !this.node.contains(node)) return;
    const index = Number(node.dataset.cell);
    if (!first && index === this.last) return;
    this.last = index;
    this.select(index);
    if (first) node.focus({ preventScroll: true });
    event.preventDefault();
    this.act(index, event, first);
  }
}

/** Draws one cell of a grid. */
function paintToken(node, { token, text, note = "", kind = "", label }, boards) {
  const hidden = token === boards.hidden, object = !hidden && token >= boards.backgrounds;
  node.className = `cell ${kind} ${hidden ? "hidden" : ""}`;
  node.token.className = object ? `token shape shape${(token - boards.backgrounds) % SHAPES}` : "token";
  node.token.textContent = text ?? (hidden ? "?" : token);
  node.note.textContent = note;
  const [fill, ink] = hidden ? ["", ""] : tokenColors(token, boards);
  node.style.backgroundColor = object ? "" : fill;
  node.style.color = object ? "" : ink;
  node.token.style.backgroundColor = object ? fill : "";
  node.token.style.color = object ? ink : "";
  node.label.textContent = label;
}

/** Draws a share in a cell of a grid: a number on a scale from the page's colour to blue. */
function paintShare(node, share, { text, label }) {
  const strength = Math.min(1, Math.max(0, share)), [low, high] = isDark() ? INK_DARK : INK;
  const color = low.map((c, k) => Math.round(c + (high[k] - c) * strength));
  const fill = `#${color.map((c) => c.toString(16).padStart(2, "0")).join("")}`;
  node.className = "cell";
  node.style.backgroundColor = fill;
  node.style.color = inkOn(fill);
  node.token.textContent = text;
  node.label.textContent = label;
}

// Pictures

const INK = [[222, 235, 247], [8, 48, 107]], INK_DARK = [[30, 36, 48], [158, 202, 255]];  // of 0 and of the largest

/** A map of one number per cell, as a picture. description: what a screen reader says. mark: a cell with an outline. */
function drawMap(canvas, values, side, { description, mark = -1, most = Math.max(...values) }) {
  const [low, high] = isDark() ? INK_DARK : INK, size = 12, pen = canvas.getContext("2d");
  canvas.width = canvas.height = side * size;
  values.forEach((value, i) => {
    const share = most > 0 ? Math.min(1, Math.max(0, value / most)) : 0;
    pen.fillStyle = `rgb(${low.map((c, k) => Math.round(c + (high[k] - c) * share)).join(" ")})`;
    pen.fillRect((i % side) * size, Math.floor(i / side) * size, size, size);
  });
  if (mark >= 0) {
    pen.lineWidth = 2;
    pen.strokeStyle = "#d9480f";
    pen.strokeRect((mark % side) * size + 1, Math.floor(mark / side) * size + 1, size - 2, size - 2);
  }
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", description);
}

/** A board as a picture, side * size pixels wide. tokens: numbers. wrong: cells to be crossed out. */
function drawBoard(canvas, tokens, boards, { description, size = 16, wrong = [], x = 0, y = 0, fresh = true } = {}) {
  const pen = canvas.getContext("2d"), { h } = boards;
  if (fresh) canvas.width = canvas.height = h * size;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.font = `${Math.round(size * 0.55)}px system-ui, sans-serif`;
  tokens.forEach((token, i) => {
    const left = x + (i % h) * size, top = y + Math.floor(i / h) * size, hidden = token === boards.hidden;
    const [fill, ink] = hidden ? ["#6b7280", "#ffffff"] : tokenColors(token, boards);
    pen.fillStyle = fill;
    pen.fillRect(left, top, size - 1, size - 1);
    pen.fillStyle = ink;
    pen.fillText(hidden ? "?" : String(token), left + size / 2, top + size / 2 + 1);
    if (!wrong.includes(i)) return;
    pen.strokeStyle = "#d00000";
    pen.lineWidth = 2;
    pen.strokeRect(left + 1, top + 1, size - 3, size - 3);
  });
  if (description) {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", description);
  }
}

/** The cell with the largest value, in words. */
function strongest(values, boards) {
  const cell = argmax(values, 0, values.length);
  return `${boards.place(cell)}, ${values[cell].toFixed(2)}`;
}
