// Copying a view: as a Python snippet that computes it again, as JSON, as a picture.

/** Numbers as a numpy array of the board's shape, a row of the board a line. */
function asArray(values, side) {
  const rows = Array.from({ length: side }, (_, row) => `[${values.slice(row * side, (row + 1) * side).join(", ")}]`);
  return `np.array([${rows.join(",\n                  ")}])`;
}

/** Python that computes the network's answer of a state again, edits and words included. */
function asPython(state) {
  const run = state.runs[state.run], { h } = run.boards.data.sizes;
  const checkpoint = run.checkpoint ? `, checkpoint=${JSON.stringify(run.checkpoint)}` : "";
  const lea = run.kind !== "factor", { edits } = state;
  const words = lea && (Object.keys(state.words).length || edits.some(({ name }) => name.startsWith("ss_")));
  const lines = ["import numpy as np", "import torch", ""];
  if (run.folder) {
    lines.push(`from ${run.module} import TrainTransformer`, "",
               `trainer = TrainTransformer.from_run(${JSON.stringify(run.folder)}${checkpoint}, device="cpu")`);
  } else lines.push("# trainer: the object whose explore() made the page");
  lines.push(`board = ${asArray(state.tokens, h)}`, `mask = ${asArray(state.mask, h)}  # 1: hidden`);
  if (edits.length || words) lines.push(...editLines(state, lea));
  lines.push("", `acts, answers = trainer.forward_all_activations(board, mask${edits.length ? ", edits=edits" : ""}, `
    + "return_recons=True)", "print(answers)");
  if (words) lines.push(...wordLines(state, run));
  return `${lines.join("\n")}\n`;
}

/** A line that records the activations of boards as `name`; of LEA those of the language network too. */
function recordLines(name, boards, lea) {
  return lea ? [`with trainer.record() as ${name}:`, `    trainer.speaker_sentence(${boards})`]
    : [`${name} = trainer.forward_all_activations(${boards})`];
}

function editLines(state, lea) {
  const { network } = state.runs[state.run], hows = new Set(state.edits.map(({ how }) => how));
  const lines = ["", "from module_transformer_factor import Edit, editing", ""];
  if (hows.has("donor")) {
    lines.push(`donor = ${asArray(state.donor, Math.sqrt(network.T))}`,
               ...recordLines("donor_acts", lea ? "donor[None], mask[None]" : "donor, mask", lea));
  }
  if (hows.has("mean")) {
    lines.push("from studies.explorer import reference", "", ...recordLines("mean_acts", "*reference(trainer)", lea),
               "means = {name: acts.mean(0, keepdims=True) for name, acts in mean_acts.items()}");
  }
  lines.push("edits = {}");
  for (const { name, how, cells, head } of state.edits) {
    const whole = `${how === "donor" ? "donor_acts" : "means"}["${name}"][0]`, d = network.D / network.H;
    const part = head === null ? whole : name.endsWith("_a") ? `${whole}[${head}]`
      : `${whole}[:, ${head * d}:${(head + 1) * d}]`;
    const value = how === "zero" ? "torch.zeros_like" : part;
    const where = cells ? `, mask=np.isin(np.arange(${network.rowsOf(name)}), [${cells.join(", ")}])` : "";
    const which = head === null ? "" : `, head=${head}`;
    lines.push(`edits.setdefault("${name}", []).append(Edit(${value}${where}${which}))`);
  }
  return lines;
}

function wordLines(state, { network }) {
  const removed = Object.values(state.words).includes(null);
  if (removed && network.blankIsZero) return ["# a removed word stands for zeros here, which no word's number names"];
  const changes = Object.entries(state.words).map(([place, word]) => `words[0, ${place}] = ${word ?? network.K - 1}`);
  return ["", "with editing(trainer.transformer, edits):", "    words = trainer.speaker_sentence(board[None], mask[None])", ...changes,
          "print(trainer.speaker_predict_from_speech(words)[0])"];
}

/** Shows a text to be copied, and copies it where the browser allows that. */
async function copyText(title, text) {
  byId("dialog-title").textContent = title;
  byId("dialog-text").value = text;
  byId("dialog").showModal();
  byId("dialog-text").select();
  try {
    await navigator.clipboard.writeText(text);
    byId("dialog-title").textContent = `${title} (copied)`;
  } catch {
    // in a frame, or without leave to write: the text is selected, to be copied by hand
  }
}

/** The boards of a view as one picture, with their titles; answers that differ from truth are outlined. */
function asPicture(titles, tokens, boards, truth) {
  const size = 32, gap = 24, top = 36, side = boards.h * size, canvas = element("canvas");
  canvas.width = titles.length * (side + gap) + gap;
  canvas.height = side + top + gap;
  const pen = canvas.getContext("2d");
  pen.fillStyle = isDark() ? "#14161a" : "#ffffff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  titles.forEach((title, k) => {
    const x = gap + k * (side + gap);
    const wrong = [...truth.keys()].filter((t) => k && tokens[k][t] !== truth[t]);
    drawBoard(canvas, tokens[k], boards, { size, x, y: top, fresh: false, wrong });
    pen.fillStyle = isDark() ? "#eceff4" : "#16181d";
    pen.textAlign = "left";
    pen.font = "16px system-ui, sans-serif";
    pen.fillText(title, x, top / 2, side);
  });
  return canvas;
}

function savePicture(canvas, name) {
  canvas.toBlob((blob) => {
    const link = element("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}
