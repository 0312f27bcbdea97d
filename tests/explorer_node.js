// Run by tests/test_explorer.py: node explorer_node.js FOLDER, where FOLDER holds the page's scripts joined, the runs and
// what torch computed. It prints one JSON line.
const fs = require("fs"), path = require("path"), vm = require("vm");
const folder = process.argv[2], at = (name) => path.join(folder, name);
vm.runInThisContext(`${fs.readFileSync(at("scripts.js"), "utf8")}
globalThis.page = { networkOf, Observer, probabilities, argmax };`);
const run = JSON.parse(fs.readFileSync(at("run.json"))), task = JSON.parse(fs.readFileSync(at("task.json")));

/** The largest difference from torch of every named activation, and the answers, over boards. */
function parity() {
  const network = page.networkOf({ ...run, ...run.weights });
  const file = fs.openSync(at("expected.f64"), "r"), most = {}, answers = [], said = [];
  for (const tokens of task.tokens) {
    const pass = network.forward(tokens);
    for (const [name, size] of task.names) {
      const bytes = Buffer.alloc(size * 8), activation = pass.acts.get(name);
      fs.readSync(file, bytes, 0, bytes.length, null);
      const expected = new Float64Array(bytes.buffer, bytes.byteOffset, size);
      if (activation.length !== size) throw new Error(`${name} has ${activation.length} numbers, not ${size}`);
      let worst = most[name] ?? 0;
      for (let i = 0; i < size; i++) worst = Math.max(worst, Math.abs(activation[i] - expected[i]));
      most[name] = worst;
    }
    answers.push(tokens.map((_, t) => page.argmax(pass.logits, t * network.V, network.V)));
    if (pass.said) {
      const drawn = network.fromSentence(network.sentenceOf(pass.said)).logits;
      said.push([pass.said, tokens.map((_, t) => page.argmax(drawn, t * network.V, network.V))]);
    }
  }
  return { most, answers, said };
}

/** What the ideal observer says of every board. */
function observer() {
  const one = new page.Observer(run.data);
  return task.tokens.map((tokens) => {
    const start = performance.now(), answer = one.answer(tokens);
    return { ...answer, shares: answer.shares && [...answer.shares], ms: performance.now() - start };
  });
}

/** Logits under edits, as Python gives them. */
function edits() {
  const network = page.networkOf({ ...run, ...run.weights });
  return task.cases.map(({ tokens, edits }) => [...network.forward(tokens, edits).logits]);
}

/** The weights of the untrained network, by name. */
function untrained() {
  const { arrays } = page.networkOf({ ...run, ...run.weights, untrained: true });
  return Object.fromEntries(Object.entries(arrays).map(([name, { data }]) => [name, [...data]]));
}

console.log(JSON.stringify({ parity, observer, edits, untrained }[task.what]()));
