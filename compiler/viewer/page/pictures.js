// Pictures of a region before and after: dagre lays out in a worker, cytoscape draws on a canvas.
const WORKER = `
onmessage = ({ data: { key, nodes, edges } }) => {
  const g = new dagre.graphlib.Graph({ multigraph: true });
  g.setGraph({ nodesep: 14, ranksep: 26 });
  for (const n of nodes) g.setNode(n.id, { width: n.width, height: n.height });
  edges.forEach((e, i) => g.setEdge(e.source, e.target, {}, String(i)));
  dagre.layout(g);
  postMessage({ key, positions: Object.fromEntries(nodes.map((n) => [n.id, { x: g.node(n.id).x, y: g.node(n.id).y }])) });
};`;
const library = document.getElementById("layout-library").textContent;
const layouts = new Map(); // key -> promise of {nodes, edges, positions}
const waiting = new Map();
let worker = null;

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
      if (!worker) {
        worker = new Worker(URL.createObjectURL(new Blob([library, WORKER], { type: "text/javascript" })));
        worker.onmessage = ({ data }) => { waiting.get(data.key)(data.positions); waiting.delete(data.key); };
      }
      worker.postMessage({ key, nodes, edges });
    }));
  }
  return layouts.get(key);
}

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
      "target-arrow-shape": "triangle", "arrow-scale": 0.7, "curve-style": "bezier" } },
  ];
}

function repaint() {
  for (const side of Object.keys(panes)) panes[side].style(paint());
}

async function draw(pass, region, side, chosen, stillWanted) {
  const { nodes, edges, positions } = await layout(pass, region, side);
  if (!stillWanted()) return;
  const cy = pane(side);
  cy.batch(() => {
    cy.elements().remove();
    cy.add(nodes.map((n) => ({ group: "nodes", data: n, position: { ...positions[n.id] } })));
    cy.add(edges.map((e, i) => ({ group: "edges", data: { id: `edge ${i}`, ...e } })));
  });
  frame(cy);
  choose(chosen);
}

function frame(cy) {
  cy.fit(undefined, 16);
  if (cy.zoom() > 1.2) cy.zoom(1.2), cy.center();
}

function choose(name) {
  for (const cy of Object.values(panes)) {
    cy.nodes().removeClass("chosen");
    if (name) cy.getElementById(name).addClass("chosen");
  }
}
