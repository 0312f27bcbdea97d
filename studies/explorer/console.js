// What the console and tests may call: window.explorer. The last file: it starts the page.

/** A run with what is computed from its description. The observer is made when it is first asked. */
function prepared(run) {
  const boards = new BoardSet(run.data);
  let observer = null;
  for (const readout of Object.values(run.readouts)) readout.weights = new Float32Array(bytesOf(readout.blob).buffer);
  return Object.assign(run, { boards, network: networkOf({ ...run, ...run.weights }),
                              observer: () => (observer ??= new Observer(run.data)) });
}

/** For tests and for the console: see SPEC section 9. */
function offer(app) {
  const checked = (name, tokens) => {
    const run = app.runs[name];
    if (!run) throw new RangeError(`There is no run ${name}; there are ${app.state.names.join(", ")}.`);
    const { T, V } = run.sizes, list = [...tokens];
    if (list.length !== T || !list.every((token) => Number.isInteger(token) && token >= 0 && token < V)) {
      throw new RangeError(`tokens must be ${T} whole numbers from 0 to ${V - 1}.`);
    }
    return [run, list];
  };
  const forward = (name, tokens) => {
    const [run, list] = checked(name, tokens);
    return run.network.forward(list);
  };
  return {
    runs: app.state.names,
    logits: (run, tokens) => Float32Array.from(forward(run, tokens).logits),
    activation: (run, name, tokens) => {
      const { acts } = forward(run, tokens);
      if (!acts.has(name)) throw new RangeError(`There is no activation ${name}; there are ${[...acts.keys()].join(", ")}.`);
      return Float32Array.from(acts.get(name));
    },
    posterior: (name, tokens) => {
      const [run, list] = checked(name, tokens);
      const answer = run.observer().answer(list, 10 ** 7);
      if (answer.tooMany) throw new RangeError("More than 10 million hypotheses fit these tokens.");
      return answer.shares ?? null;
    },
    setBoard: (tokens, masks) => {
      const [run, list] = checked(app.state.run, tokens), mask = [...masks].map(Number);
      if (list.includes(run.boards.hidden)) throw new RangeError("tokens hold the truth; masks say what is hidden.");
      if (mask.length !== list.length || mask.some((m) => m !== 0 && m !== 1)) {
        throw new RangeError(`masks must be ${list.length} zeros and ones.`);
      }
      app.state.change(list, mask);
      app.refresh();
    },
    state: () => app.state.values(),
    app,
  };
}

window.explorer = { ready: null };
window.explorer.ready = new Promise((resolve) => {
  const app = new App(JSON.parse(byId("data").textContent).runs);
  Object.assign(window.explorer, offer(app));
  performance.mark("usable");
  resolve(window.explorer);
});
