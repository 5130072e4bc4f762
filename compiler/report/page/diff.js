// The side by side text diff. Long diffs are written piece by piece as the reader comes near the end.
const PIECE = 150;
const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text) => String(text).replace(/[&<>"']/g, (c) => ENTITIES[c]); // in text and in quoted attributes alike

function marked(text, other) {
  let head = 0, tail = 0;
  const most = Math.min(text.length, other.length);
  while (head < most && text[head] === other[head]) head++;
  while (tail < most - head && text[text.length - 1 - tail] === other[other.length - 1 - tail]) tail++;
  const end = text.length - tail;
  return `${escape(text.slice(0, head))}<b>${escape(text.slice(head, end))}</b>${escape(text.slice(end))}`;
}

function lineHtml([kind, leftNumber, left, rightNumber, right]) {
  if (kind === "@") return `<div class="hunk">${escape(left)}</div>`;
  const [a, b] = kind === "~" ? [marked(left, right), marked(right, left)] : [escape(left), escape(kind === " " ? left : right)];
  const gone = kind === "-" || kind === "~" ? ' class="del"' : "", made = kind === "+" || kind === "~" ? ' class="add"' : "";
  return `<div class="line"><i>${leftNumber || ""}</i><span${gone}>${a}</span><i>${rightNumber || ""}</i><span${made}>${b}</span></div>`;
}

let diffObserver = null;
function showDiff(rows) {
  const place = document.getElementById("diff");
  if (diffObserver) diffObserver.disconnect();
  place.innerHTML = "";
  let written = 0;
  const more = () => {
    place.insertAdjacentHTML("beforeend", rows.slice(written, written + PIECE).map(lineHtml).join(""));
    written += PIECE;
  };
  more();
  if (written >= rows.length) return;
  const sentinel = document.createElement("div");
  place.append(sentinel);
  diffObserver = new IntersectionObserver((entries) => {
    if (!entries.some((e) => e.isIntersecting)) return;
    more();
    if (written >= rows.length) diffObserver.disconnect();
    else place.append(sentinel);
  }, { root: document.querySelector("main"), rootMargin: "1500px" });
  diffObserver.observe(sentinel);
}
