// Pictures of a region before and after: dagre lays out in workers, cytoscape draws on a canvas.
const WORKER = `
const GAP = 24;
function parts(nodes, edges) { // connected nodes are laid out by themselves
  const towards = new Map(nodes.map((n) => [n.id, n.id])), found = new Map();
  const root = (id) => { while (towards.get(id) !== id) id = towards.get(id); return id; };
  for (const e of edges) towards.set(root(e.source), root(e.target));
  for (const n of nodes) found.set(root(n.id), [...(found.get(root(n.id)) || []), n]);
  return [...found.values()];
}
onmessage = ({ data: { key, nodes, edges } }) => {
  const laid = parts(nodes, edges).map((members) => {
    const g = new dagre.graphlib.Graph({ multigraph: true }), ids = new Set(members.map((n) => n.id));
    g.setGraph({ nodesep: 14, ranksep: 26 });
    for (const n of members) g.setNode(n.id, { width: n.width, height: n.height });
    edges.forEach((e, i) => ids.has(e.source) && g.setEdge(e.source, e.target, {}, String(i)));
    dagre.layout(g);
    return { g, members, width: g.graph().width, height: g.graph().height };
  });
  const area = laid.reduce((sum, part) => sum + (part.width + GAP) * (part.height + GAP), 0);
  const wide = Math.max(Math.sqrt(1.5 * area), ...laid.map((part) => part.width));
  const positions = {};
  let x = 0, y = 0, tall = 0;
  for (const { g, members, width, height } of laid) { // one beside the other, in rows that fill a landscape frame
    if (x && x + width > wide) x = 0, y += tall + GAP, tall = 0;
    for (const n of members) positions[n.id] = { x: x + g.node(n.id).x, y: y + g.node(n.id).y };
    x += width + GAP;
    tall = Math.max(tall, height);
  }
  postMessage({ key, positions });
};`;
const library = document.getElementById("layout-library").textContent;
const layouts = new Map(); // key -> promise of {nodes, edges, positions}
const waiting = new Map();
const source = URL.createObjectURL(new Blob([library, WORKER], { type: "text/javascript" }));
const workers = Object.fromEntries(["before", "after"].map((side) => [side, new Worker(source)]));
for (const worker of Object.values(workers)) {
  worker.onmessage = ({ data }) => { waiting.get(data.key)(data.positions); waiting.delete(data.key); };
}

function layout(pass, region, side) {
  const key = `${pass}/${region}/${side}`;
  if (!layouts.has(key)) {
    layouts.set(key, new Promise((resolve) => {
      const { nodes, edges } = picture(pass, region, side);
      for (const n of nodes) {
        const longest = Math.max(...n.label.split("\n").map((l) => l.length));
        n.width = Math.min(230, 18 + 7 * longest);
        n.height = n.label.includes("\n") ? 38 : 24;
      }
      waiting.set(key, (positions) => resolve({ nodes, edges, positions }));
      const id = new Map(nodes.map((n, i) => [n.id, `n${i}`])); // dagre keeps them in plain objects, where "constructor" is taken
      workers[side].postMessage({ key, nodes: nodes.map((n) => ({ ...n, id: id.get(n.id) })),
        edges: edges.map((e) => ({ ...e, source: id.get(e.source), target: id.get(e.target) })) });
    }));
  }
  return layouts.get(key);
}

const READABLE = 0.75; // below it a label of 11 pixels is none
const panes = {};
function pane(side) {
  if (!panes[side]) {
    panes[side] = cytoscape({ container: document.getElementById(side), minZoom: 0.05, maxZoom: 2.5, style: paint() });
    new ResizeObserver(() => { panes[side].resize(); frame(panes[side]); }).observe(document.getElementById(side));
    panes[side].on("tap", "node", (event) => { if (event.target.data("kind") !== "end") go({ node: event.target.id() }); });
  }
  return panes[side];
}

function paint() {
  const css = getComputedStyle(document.documentElement), colour = (name) => css.getPropertyValue(`--${name}`).trim();
  const kinds = ["created", "deleted", "changed"].map((kind) => ({
    selector: `node[kind="${kind}"]`, style: { "background-color": colour(`${kind}-bg`), "border-color": colour(kind) },
  }));
  return [
    { selector: "node", style: { shape: "round-rectangle", width: "data(width)", height: "data(height)", label: "data(label)",
      "text-valign": "center", "text-wrap": "wrap", "font-size": 11, "font-family": "system-ui, sans-serif", color: colour("ink"),
      "background-color": colour("kept-bg"), "border-width": 1.5, "border-color": colour("faint") } },
    ...kinds,
    { selector: 'node[kind="end"]', style: { shape: "ellipse", "border-style": "dashed" } },
    { selector: "node.chosen", style: { "border-width": 4, "border-color": colour("accent") } },
    { selector: "edge", style: { width: 1.2, "line-color": colour("faint"), "target-arrow-color": colour("faint"),
      "target-arrow-shape": "triangle", "arrow-scale": 0.7, "curve-style": "straight" } },
  ];
}

function repaint() {
  for (const side of Object.keys(panes)) panes[side].style(paint());
}

async function draw(pass, region, side, chosen, stillWanted) {
  const { nodes, edges, positions } = await layout(pass, region, side);
  if (!stillWanted()) return;
  const figure = document.getElementById(side).parentElement;
  figure.hidden = !nodes.length; // what is new has no before, and what is gone no after: the other side takes the room
  figure.parentElement.classList.toggle("single", figure.hidden || [...figure.parentElement.children].some((f) => f.hidden));
  const cy = pane(side);
  cy.batch(() => {
    cy.elements().remove();
    cy.add(nodes.map((n, i) => ({ group: "nodes", data: n, position: { ...positions[`n${i}`] } })));
    cy.add(edges.map((e) => ({ group: "edges", data: e }))); // without ids of their own, which a node might have
  });
  frame(cy);
  choose(chosen);
}

function frame(cy) { // as cy.fit(), from what is known: measuring every label anew takes longer than all the rest
  const margin = 16, nodes = cy.nodes().map((n) => ({ ...n.position(), w: n.data("width") / 2, h: n.data("height") / 2 }));
  if (!nodes.length || !cy.width()) return;
  const [left, top] = [Math.min(...nodes.map((n) => n.x - n.w)), Math.min(...nodes.map((n) => n.y - n.h))];
  const [right, bottom] = [Math.max(...nodes.map((n) => n.x + n.w)), Math.max(...nodes.map((n) => n.y + n.h))];
  const fit = Math.min(1.2, (cy.width() - 2 * margin) / (right - left), (cy.height() - 2 * margin) / (bottom - top));
  const zoom = Math.max(fit, READABLE); // what does not fit then is dragged into sight, from the top
  const at = (size, low, high) => (zoom * (high - low) + 2 * margin > size ? margin - zoom * low : (size - zoom * (low + high)) / 2);
  cy.viewport({ zoom, pan: { x: fit < READABLE ? (cy.width() - zoom * (left + right)) / 2 : at(cy.width(), left, right), y: at(cy.height(), top, bottom) } });
}

function choose(name) {
  for (const cy of Object.values(panes)) {
    cy.nodes().removeClass("chosen");
    if (name) cy.getElementById(name).addClass("chosen");
  }
}
