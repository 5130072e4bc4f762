// The panel about one node: attributes, values with shapes and dtypes, weights' statistics, who made it and from what.
const item = (parts) => `<li>${parts.filter(Boolean).join("<br>")}</li>`;
const link = (name, known) => (known ? `<a data-node="${escape(name)}">${escape(name)}</a>` : escape(name));

function constantHtml(graph, tensor) {
  const [name, text, stats] = typeof tensor === "string" ? [tensor, literal(graph, tensor)] : D.graph.constants[tensor];
  const numbers = stats && Object.entries(stats).map(([k, v]) => escape(`${k} ${v === null ? "not finite" : k === "zeros" ? `${(100 * v).toFixed(1)}%` : v}`));
  return item([escape(name), `<span class="mono">${escape(text)}</span>`, numbers && `<small>${numbers.join(" · ")}</small>`]);
}

function originHtml(name, depth = 0) {
  const origin = originOf(name);
  if (!origin) return depth ? "" : "<p>Came with the model.</p>";
  const sources = origin[1].map((s) => `<li>${link(s, stageOf(s, state.pass) !== undefined)}${depth < 5 ? originHtml(s, depth + 1) : ""}</li>`).join("");
  const made = `made by <a data-pass="${escape(origin[0])}">${escape(origin[0])}</a>`;
  return depth ? ` <small>${made}</small>${sources && `<ul>${sources}</ul>`}` : `<p>M${made.slice(1)}.</p>${sources && `<h3>It stands for</h3><ul>${sources}</ul>`}`;
}

function stageOf(name, pass) { // the stage nearest to the pass in which the node exists, later ones first
  const all = [pass, pass - 1, ...Array.from({ length: pass }, (_, i) => pass - 2 - i), ...D.passes.map((p) => p.index)];
  return all.find((k) => k >= 0 && stage(k).byName.has(name));
}

function showDetails(name, pass) {
  const panel = document.getElementById("details"), at = name ? stageOf(name, pass) : undefined;
  panel.hidden = at === undefined;
  if (panel.hidden) return;
  const graph = stage(at), node = graph.byName.get(name).node, change = changes(Math.max(pass, 1)).get(name);
  const value = (tensor) => (literal(graph, tensor) !== undefined ? constantHtml(graph, tensor)
    : item([link(graph.maker.get(tensor) || tensor, graph.maker.has(tensor)), `<span class="mono">${escape(tensor)}: ${escape(graph.types.get(tensor) || "?")}</span>`]));
  const output = (tensor, i) => item([`<span class="mono">${escape(tensor)}: ${escape(node[TYPES][i])}</span>`,
    (graph.users.get(tensor) || []).slice(0, 12).map((user) => link(user, true)).join(", ")]);
  panel.innerHTML = `<button class="close" aria-label="Close">&times;</button><h2>${escape(node[OP])}</h2>
    <p class="mono">${escape(name)}</p><p>${change ? `<b>${change}</b> by ${escape(D.passes[pass - 1].name)}` : "Not touched by this pass"}</p>
    ${node[ATTRIBUTES] ? `<h3>Attributes</h3><p class="mono">${escape(node[ATTRIBUTES].slice(1, -1))}</p>` : ""}
    <h3>Inputs</h3><ul>${node[INPUTS].map(value).join("")}</ul><h3>Outputs and their readers</h3><ul>${node[OUTPUTS].map(output).join("")}</ul>
    ${node[BODY] ? `<h3>Subgraphs</h3><pre class="mono">${escape(node[BODY])}</pre>` : ""}<h3>Where it comes from</h3>${originHtml(name)}`;
  panel.querySelector(".close").onclick = () => go({ node: "" });
  panel.querySelectorAll("[data-node]").forEach((a) => (a.onclick = () => visit(a.dataset.node)));
  panel.querySelectorAll("[data-pass]").forEach((a) => (a.onclick = () => {
    const made = D.passes.find((p) => p.name === a.dataset.pass);
    if (made) go({ pass: made.index, region: 0, node: "" });
  }));
}

function visit(name) { // show a node, in this pass's pictures if one of them holds it
  const region = regions(state.pass).findIndex((names) => names.includes(name));
  go(region >= 0 ? { node: name, region } : { node: name });
}
