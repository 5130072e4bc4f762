// State lives in the URL's hash; every change goes through go(), and render() shows what the hash says.
const $ = (id) => document.getElementById(id);
const FIRST = { pass: 0, region: 0, node: "", q: "", hide: false };
let state = { ...FIRST };
let shown = {};
window.onnxgraft = { ready: null, switches: [] };

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  const byName = D.passes.find((p) => p.name === given.get("pass"));
  const pass = byName ? byName.index : Number(given.get("pass")) || 0;
  return { pass: pass <= D.passes.length ? pass : 0, region: Number(given.get("region")) || 0, node: given.get("node") || "",
    q: given.get("q") || "", hide: given.get("hide") === "1" };
}

function go(change) {
  const next = { ...state, ...change }, hash = new URLSearchParams();
  for (const key of Object.keys(FIRST)) if (next[key]) hash.set(key, next[key] === true ? "1" : next[key]);
  const text = `#${hash}`;
  if (text === (location.hash || "#")) return;
  history[change.pass === undefined ? "replaceState" : "pushState"](null, "", text);
  render();
}

function matches(pass, q) {
  if (!q) return true;
  if (pass.name.includes(q)) return true;
  for (const name of changes(pass.index).keys()) {
    const entry = stage(pass.index).byName.get(name) || stage(pass.index - 1).byName.get(name);
    if (name.toLowerCase().includes(q) || entry.node[OP].toLowerCase().includes(q)) return true;
  }
  return false;
}

const visible = () => D.passes.filter((p) => (!state.hide || p.changed || p.error) && matches(p, state.q.toLowerCase()));

function renderList() {
  const entry = (index, kind, title, right, small) => `<li data-pass="${index}" class="${kind}" aria-current="${index === state.pass}"><button>
    <span class="row"><span>${escape(title)}</span><span>${escape(right)}</span></span>${small.filter(Boolean).map(escape).map((line) => `<small title="${line}">${line}</small>`).join("")}</button></li>`;
  const rows = visible().map((p) => entry(p.index, p.error ? "failed" : p.changed ? "modified" : "same",
    `${p.index} ${p.name}`, p.seconds === null ? "" : `${p.seconds.toFixed(2)} s`,
    p.error ? [p.error] : [[p.nodes, p.changed ? p.ops || "same operators" : p.skipped === null ? "unchanged" : `skipped: ${p.skipped}`].filter(Boolean).join("; "), p.check]));
  $("hits").textContent = state.q && !rows.length ? `No pass and no node matches "${state.q}".` : "";
  const held = document.activeElement?.closest?.("#passes li")?.dataset.pass;
  $("passes").innerHTML = entry(0, "", "Overview", "", [`${D.passes.length} passes`]) + rows.join("");
  if (held !== undefined) document.querySelector(`#passes li[data-pass="${state.pass}"] button`)?.focus();
}

// What a region is about, in a few words: the operators that were made or changed in it, or those that are gone.
function regionName(pass, names) {
  const kinds = changes(pass), count = new Map();
  const kept = names.filter((n) => kinds.get(n) !== "deleted"), of = kept.length ? [kept, pass] : [names, pass - 1];
  for (const name of of[0]) {
    const op = stage(of[1]).byName.get(name)?.node[OP].replace(/^.*::/, "");
    if (op) count.set(op, (count.get(op) || 0) + 1);
  }
  const most = [...count].sort((a, b) => b[1] - a[1]).slice(0, 3).map(([op, n]) => (n > 1 ? `${n} ${op}` : op));
  return `${kept.length ? "" : "gone: "}${most.join(", ") || `${names.length} nodes`}`;
}

function renderPass() {
  const pass = D.passes[state.pass - 1], all = regions(pass.index), region = Math.min(state.region, Math.max(all.length - 1, 0));
  const facts = [pass.nodes, pass.allOps, ...Object.entries(pass.statistics).map(([k, v]) => `${k} ${v}`), pass.skipped === null ? "" : `skipped: ${pass.skipped}`, pass.check, pass.error];
  $("pass-title").textContent = `${pass.index} ${pass.spec}`;
  $("pass-does").textContent = pass.does;
  $("pass-facts").textContent = facts.filter(Boolean).join("; ");
  $("pictures").hidden = !all.length;
  document.querySelector(".legend").hidden = !all.length;
  const options = () => all.map((names, i) => `<option value="${i}" ${i === region ? "selected" : ""}>${i + 1} of ${all.length}: ${escape(regionName(pass.index, names))}</option>`).join("");
  $("regions").innerHTML = all.length ? `<button id="previous" aria-label="Previous region" ${region ? "" : "disabled"}>&lsaquo;</button>
    <select id="region" aria-label="Region">${options()}</select><button id="next" aria-label="Next region" ${region < all.length - 1 ? "" : "disabled"}>&rsaquo;</button>
    <small>${changes(pass.index).size} nodes created, deleted or changed</small>`
    : `<small>${pass.changed ? "No node was created, deleted or rewired; only shapes, types or weights differ." : pass.skipped === null ? "This pass changed nothing." : "This pass had nothing to do here."}</small>`;
  if (all.length) {
    $("previous").onclick = () => go({ region: region - 1 });
    $("region").onchange = () => go({ region: Number($("region").value) });
    $("next").onclick = () => go({ region: region + 1 });
  }
  if (shown.pass !== state.pass) showDiff(pass.rows), (document.querySelector("main").scrollTop = 0);
  if (shown.pass === state.pass && shown.region === region) return choose(state.node);
  shown.region = region;
  const wanted = () => state.pass === pass.index && shown.region === region;
  return all.length ? Promise.all(["before", "after"].map((side) => draw(pass.index, region, side, state.node, wanted))) : null;
}

const painted = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));

async function render() {
  const started = performance.now(), before = shown.pass;
  state = readHash();
  if ($("search").value !== state.q) $("search").value = state.q;
  $("hide").checked = state.hide;
  renderList();
  $("overview").hidden = state.pass > 0;
  $("pass").hidden = !state.pass;
  const pictures = state.pass ? renderPass() : null;
  if (before !== state.pass) document.querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
  shown.pass = state.pass;
  showDetails(state.node, state.pass);
  const text = performance.now() - started;
  await pictures;
  await painted();
  if (before !== undefined && before !== state.pass) onnxgraft.switches.push({ pass: state.pass, text, all: performance.now() - started });
}

function step(by) {
  const order = [0, ...visible().map((p) => p.index)], at = order.indexOf(state.pass);
  const next = order[Math.min(Math.max(at + by, 0), order.length - 1)];
  if (next !== state.pass) go({ pass: next, region: 0, node: "" });
}

addEventListener("keydown", (event) => {
  if (!D) return;
  if (event.target.tagName === "SELECT") return;
  if (event.target.type === "search") return void (event.key === "Escape" && event.target.blur());
  const keys = {
    ArrowDown: () => step(1), ArrowUp: () => step(-1), j: () => step(1), k: () => step(-1),
    ArrowRight: () => state.pass && go({ region: Math.min(state.region + 1, regions(state.pass).length - 1) }),
    ArrowLeft: () => state.pass && go({ region: Math.max(state.region - 1, 0) }),
    Escape: () => go({ node: "" }), "/": () => $("search").focus(),
  };
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key]();
});
$("passes").addEventListener("click", (event) => {
  const row = event.target.closest("li");
  if (row) go({ pass: Number(row.dataset.pass), region: 0, node: "" });
});
$("search").addEventListener("input", () => go({ q: $("search").value }));
$("hide").addEventListener("change", () => go({ hide: $("hide").checked }));
$("theme").addEventListener("click", () => (document.documentElement.classList.toggle("dark"), repaint()));
document.documentElement.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
addEventListener("hashchange", render);
addEventListener("popstate", render);
unpack().then(render).then(() => {
  for (const side of ["before", "after"]) pane(side);
  onnxgraft.ready = performance.now();
  const prefetch = D.passes.filter((p) => regions(p.index).length).flatMap((p) => [[p.index, 0, "before"], [p.index, 0, "after"]]);
  const one = () => { // the reader's own wishes come first
    if (waiting.size) return void setTimeout(one, 50);
    const next = prefetch.shift();
    if (next) layout(...next).then(() => setTimeout(one));
  };
  setTimeout(one);
});
