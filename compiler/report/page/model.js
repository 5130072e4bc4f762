// What the report knows: stages of the graph, what a pass changed between two of them, and the regions of that change.
let D; // set by unpack(), before anything is shown
async function unpack() {
  const packed = Uint8Array.from(atob(document.getElementById("data").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  D = JSON.parse(await new Response(stream).text());
}
const REGION = 20; // changed nodes in one picture: as many as are readable, and laid out in a blink
const [NAME, OP, INPUTS, OUTPUTS, TYPES, ATTRIBUTES, BODY] = [0, 1, 2, 3, 4, 5, 6];
const originOf = (name) => (Object.hasOwn(D.graph.origins, name) ? D.graph.origins[name] : undefined); // a node may be named "constructor"
const memo = (make) => {
  const known = new Map();
  return (key) => (known.has(key) || known.set(key, make(key)), known.get(key));
};

const stage = memo((index) => {
  const raw = D.graph.stages[index] || { nodes: [], inputs: [], outputs: [] };
  const byName = new Map(), maker = new Map(), users = new Map(), types = new Map(raw.inputs), literals = new Map();
  raw.nodes.forEach((id, position) => {
    const node = D.graph.nodes[id];
    if (node[OP] === "Constant") return void literals.set(node[OUTPUTS][0], node[ATTRIBUTES].replace(/^\{\w+=(.*)\}$/, "$1"));
    byName.set(node[NAME], { id, node, position });
    node[OUTPUTS].forEach((tensor, i) => (maker.set(tensor, node[NAME]), types.set(tensor, node[TYPES][i])));
    for (const tensor of node[INPUTS]) {
      if (typeof tensor !== "string") continue;
      if (!users.has(tensor)) users.set(tensor, []);
      users.get(tensor).push(node[NAME]);
    }
  });
  return { byName, maker, users, types, literals, inputs: raw.inputs, outputs: raw.outputs };
});

// The text of a constant, be it a weight or what a Constant node makes (the two are drawn alike); undefined for a value.
const literal = (graph, tensor) => (typeof tensor === "string" ? graph.literals.get(tensor) : D.graph.constants[tensor][1]);
const wiring = (graph, node) => JSON.stringify([node[OP], node[OUTPUTS], node[ATTRIBUTES], node[BODY],
  node[INPUTS].map((tensor) => literal(graph, tensor) ?? tensor)]);

// Node name -> created, deleted or changed. A node of which only the shapes became known counts as kept.
const changes = memo((pass) => {
  const before = stage(pass - 1), after = stage(pass), found = new Map();
  for (const [name, { id, node }] of before.byName) {
    const now = after.byName.get(name);
    if (!now) found.set(name, "deleted");
    else if (now.id !== id && wiring(after, now.node) !== wiring(before, node)) found.set(name, "changed");
  }
  for (const name of after.byName.keys()) if (!before.byName.has(name)) found.set(name, "created");
  return found;
});

function neighbours(graph, name, few = Infinity) {
  const entry = graph.byName.get(name);
  if (!entry) return [];
  const makers = entry.node[INPUTS].map((t) => graph.maker.get(t)).filter(Boolean);
  return [...makers, ...entry.node[OUTPUTS].flatMap((t) => (graph.users.get(t) || []).slice(0, few))];
}

// Connected changed nodes in the order of the graph; small groups share a region, large ones are split.
const regions = memo((pass) => {
  const changed = changes(pass), before = stage(pass - 1), after = stage(pass), place = new Map();
  for (const [name, { position }] of before.byName) place.set(name, position);
  let last = 0;
  for (const name of after.byName.keys()) {
    if (place.has(name)) last = Math.max(last, place.get(name));
    else place.set(name, last + 0.5);
  }
  const kin = new Map(); // what a new node stands for belongs to its picture, even where no wire joins them
  for (const name of changed.keys()) {
    for (const old of (originOf(name) || [])[1] || []) {
      if (!changed.has(old)) continue;
      for (const [a, b] of [[name, old], [old, name]]) kin.set(a, [...(kin.get(a) || []), b]);
    }
  }
  const seen = new Set(), groups = [];
  for (const start of changed.keys()) {
    if (seen.has(start)) continue;
    const group = [], queue = [start];
    seen.add(start);
    while (queue.length) {
      const name = queue.shift(); // breadth first: what lies near each other shares a picture
      group.push(name);
      for (const next of [...neighbours(before, name), ...neighbours(after, name), ...(kin.get(name) || [])]) {
        if (changed.has(next) && !seen.has(next)) seen.add(next), queue.push(next);
      }
    }
    groups.push(group.sort((a, b) => place.get(a) - place.get(b)));
  }
  groups.sort((a, b) => place.get(a[0]) - place.get(b[0]));
  const packed = [];
  for (const group of groups) {
    const made = group.filter((name) => !before.byName.has(name)), gone = group.filter((name) => before.byName.has(name));
    for (let at = 0; at < Math.max(made.length, gone.length); at += REGION) {
      const part = { made: made.slice(at, at + REGION), gone: gone.slice(at, at + REGION) }, open = packed[packed.length - 1];
      const fits = open && group.length < REGION && ["made", "gone"].every((side) => open[side].length + part[side].length <= REGION);
      if (fits) open.made.push(...part.made), open.gone.push(...part.gone);
      else packed.push(part);
    }
  }
  return packed.map(({ made, gone }) => [...gone, ...made]);
});

// Nodes and edges of one picture: the region's nodes that exist on that side, and what they touch.
function picture(pass, region, side) {
  const graph = stage(side === "before" ? pass - 1 : pass), changed = changes(pass);
  const members = new Set((regions(pass)[region] || []).filter((name) => graph.byName.has(name)));
  const drawn = new Set(members);
  for (const name of members) for (const next of neighbours(graph, name, 3)) drawn.add(next);
  if (!members.size) { // nothing of the region exists on this side: show where it was or will be
    const other = stage(side === "before" ? pass : pass - 1);
    for (const name of regions(pass)[region] || []) {
      for (const next of neighbours(other, name, 2)) if (graph.byName.has(next) && drawn.size < 12) drawn.add(next);
    }
  }
  const nodes = [], edges = [], ends = new Map();
  for (const name of drawn) {
    const node = graph.byName.get(name).node;
    nodes.push({ id: name, label: label(graph, node), kind: changed.get(name) || "kept" });
    node[INPUTS].forEach((tensor) => {
      const maker = graph.maker.get(tensor);
      if (maker && drawn.has(maker)) edges.push({ source: maker, target: name, tensor });
      else if (!maker && graph.inputs.some(([n]) => n === tensor)) ends.set(tensor, { source: `in ${tensor}`, target: name, tensor });
    });
    for (const [tensor] of graph.outputs) {
      if (node[OUTPUTS].includes(tensor)) ends.set(`${tensor}>`, { source: name, target: `out ${tensor}`, tensor });
    }
  }
  for (const edge of ends.values()) {
    const id = edge.source.startsWith("in ") && !drawn.has(edge.source) ? edge.source : edge.target;
    if (!nodes.some((n) => n.id === id)) nodes.push({ id, label: edge.tensor, kind: "end" });
    edges.push(edge);
  }
  return { nodes, edges };
}

function label(graph, node) {
  const weight = node[INPUTS].map((tensor) => literal(graph, tensor) ?? "").find((text) => /^\w+\[\d+,/.test(text));
  const shape = weight && /\[([\d,]+)\]/.exec(weight);
  return node[OP].replace(/^.*::/, "") + (shape ? `\n${shape[1].replaceAll(",", "×")}` : "");
}
