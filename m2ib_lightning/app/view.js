// Draws an answer: the map over the picture, the words, and what hovering, brushing and the sliders show.
// `element`, `props`, `watch` and `trigger` are Gradio's. Text is put in as text, never as HTML.
const find = (selector) => element.querySelector(selector);
const [stage, picture, heat, box] = [".stage", ".picture", ".heat", ".box"].map(find);
const [words, strength, step, patches] = [".words", ".strength", ".step", ".patches"].map(find);
const colours = Uint8Array.from(atob(props.colours), (c) => c.charCodeAt(0));
let answer = null, pinned = null, hovered = null, brushed = null;

const decode = (map) => map && { ...map, values: Uint8Array.from(atob(map.cells), (c) => c.charCodeAt(0)) };
const shown = () => Number(step.value) - 1;
const digits = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(2));

/** The map that is to be seen, the value of its darkest colour, and what it is. */
function current() {
  const word = hovered ?? pinned;
  if (missing() !== null) return { ...whole(), says: `looking for “${answer.words[word]}” …` };
  if (word !== null && answer.maps[word]) {
    const map = answer.maps[word];
    // On the scale of the whole, so that what says nothing does not look like something.
    if (map.verdict !== "ok") return { map, top: Math.max(map.top, whole().top), says: `no region of “${map.text}” that can be believed: ${map.verdict.replaceAll("_", " ")}` };
    return { map, top: map.top, says: map.effect < 0 ? `what speaks against “${map.text}”: without it the pair is more similar` : `where “${map.text}” is` };
  }
  return whole();
}

/** The same of all of the caption. */
function whole() {
  const map = answer.frames[shown()].map;
  const last = answer.frames.at(-1).map;
  return { map, top: answer.running ? map?.top : last?.top, says: answer.against ? `rather than “${answer.against}”` : "" };
}

/** Colour and opacity of a share of the scale, drawn over the dimmed picture. */
function paint(data, index, share, opacity) {
  const level = Math.round(255 * Math.min(1, share));
  data.set(colours.subarray(3 * level, 3 * level + 3), 4 * index);
  data[4 * index + 3] = 255 * opacity * Math.sqrt(Math.min(1, share));
}

function draw() {
  const context = heat.getContext("2d");
  heat.width = picture.naturalWidth || 1, heat.height = picture.naturalHeight || 1;
  context.clearRect(0, 0, heat.width, heat.height);
  if (!answer) return;
  const { map, top, says } = current(), opacity = strength.value / 100;
  picture.style.filter = map ? `grayscale(${0.75 * opacity}) brightness(${1 - 0.45 * opacity})` : "";
  if (map) {
    const small = new OffscreenCanvas(map.columns, map.rows), pixels = new ImageData(map.columns, map.rows);
    const scale = top > 0 ? map.top / top / 255 : 0;
    map.values.forEach((value, i) => paint(pixels.data, i, value * scale, opacity));
    small.getContext("2d").putImageData(pixels, 0, 0);
    const [left, upper, right, lower] = answer.view;
    context.imageSmoothingEnabled = !patches.checked;
    context.imageSmoothingQuality = "high";
    context.drawImage(small, left * heat.width, upper * heat.height, (right - left) * heat.width, (lower - upper) * heat.height);
  }
  find(".top").textContent = map ? `${digits(top ?? 0)} ${answer.unit} per patch` : "";
  find(".scale").hidden = !map;
  find(".shows").textContent = says;
  const name = hovered ?? pinned;
  picture.alt = answer.where && name === null ? `The explained picture; its map is highest at the ${answer.where}.` : "The explained picture.";
}

function ramp() {
  const canvas = find(".ramp"), context = canvas.getContext("2d"), pixels = new ImageData(canvas.width, 1);
  for (let i = 0; i < canvas.width; i++) paint(pixels.data, i, i / (canvas.width - 1), 1);
  const line = new OffscreenCanvas(canvas.width, 1);
  line.getContext("2d").putImageData(pixels, 0, 0);
  context.fillStyle = "#4a4a4a";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(line, 0, 0, canvas.width, canvas.height);
}

/** The words with the values of the step that is shown; those that speak about the brushed box are framed. */
function shade() {
  const values = answer.frames[shown()].words, final = shown() === answer.frames.length - 1 && !answer.running;
  const top = Math.max(...(answer.running ? values : answer.frames.at(-1).words), 0);
  const spoken = brushed ? speaking() : null;
  // A word of few nats may lie anywhere: what counts is what the word says and how much of it is here.
  const most = spoken && Object.keys(spoken).reduce((a, b) => (spoken[a] * values[a] >= spoken[b] * values[b] ? a : b), null);
  [...words.children].forEach((button, i) => {
    const share = top > 0 ? Math.min(1, Math.max(0, values[i]) / top) : 0;
    button.firstChild.style.background = `rgb(${[255, 255, 255].map((w, c) => w + share * ([245, 132, 60][c] - w)).join()})`;
    button.lastChild.textContent = spoken ? (spoken[i] === undefined ? "–" : `${Math.round(100 * spoken[i])} %`) : final ? answer.values[i] : digits(values[i]);
    button.classList.toggle("mapped", Boolean(answer.maps[i]));
    button.classList.toggle("opposed", answer.maps[i]?.effect < 0);
    button.classList.toggle("spoken", Boolean(spoken && String(i) === most && spoken[i] > 0));
    button.setAttribute("aria-pressed", String(i === pinned));
  });
  find(".note").textContent = spoken
    ? (Object.keys(spoken).length ? "Below each word: the share of its own region that lies in the box." : "The regions of the words are on their way.")
    : [`Below each word: ${answer.unit}.`, answer.special && `On no word: ${answer.special}.`, answer.truncated && "The end of the caption was cut: the model reads no more.",
       Object.values(answer.maps).some((map) => map.effect < 0) && "A crossed-out word speaks against the picture: without it the pair is more similar.",
       Object.keys(answer.maps).length > 0 && "Point at a word to see its region, or draw a box in the picture to see which words it belongs to."].filter(Boolean).join(" ");
}

/** Of each word that has a region: the share of it inside the box. */
function speaking() {
  const [left, upper, right, lower] = answer.view, found = {};
  for (const [word, map] of Object.entries(answer.maps)) {
    let inside = 0, all = 0;
    map.values.forEach((value, i) => {
      const x0 = left + ((i % map.columns) / map.columns) * (right - left), y0 = upper + (Math.floor(i / map.columns) / map.rows) * (lower - upper);
      const [w, h] = [(right - left) / map.columns, (lower - upper) / map.rows];
      const over = (a, b, c, d) => Math.max(0, Math.min(b, d) - Math.max(a, c));
      inside += (value * over(x0, x0 + w, brushed[0], brushed[2]) * over(y0, y0 + h, brushed[1], brushed[3])) / (w * h);
      all += value;
    });
    found[word] = all > 0 ? inside / all : 0;
  }
  return found;
}

function brush(next) {
  brushed = next;
  box.hidden = !next;
  if (next) Object.assign(box.style, { left: `${100 * next[0]}%`, top: `${100 * next[1]}%`, width: `${100 * (next[2] - next[0])}%`, height: `${100 * (next[3] - next[1])}%` });
  if (answer) shade();
}

function chip(word, i) {
  const button = document.createElement("button");
  button.type = "button", button.className = "word";
  button.append(document.createElement("b"), document.createElement("small"));
  button.firstChild.textContent = word;
  const over = (index) => () => { hovered = index; draw(), ask(); };
  button.addEventListener("mouseenter", over(i)), button.addEventListener("mouseleave", over(null));
  button.addEventListener("focus", over(i)), button.addEventListener("blur", over(null));
  button.addEventListener("click", () => { pinned = pinned === i ? null : i; draw(), shade(), ask(); });
  return button;
}

/** The word that is pointed at or kept, if its region is not there yet. */
function missing() {
  const word = hovered ?? pinned;
  return answer && !answer.running && word !== null && !answer.maps[word] && answer.frames.at(-1).map ? word : null;
}

/** Ask for that region. */
function ask() {
  if (missing() !== null && element.dataset.state === "done") trigger("select", { index: missing(), text: answer.text });
}

function receive() {
  const told = props.value ?? {};
  const status = find(".status");
  status.textContent = told.message ?? (told.running ? `Step ${told.frames.length} of ${told.total}` : "");
  status.classList.toggle("error", Boolean(told.error));
  status.setAttribute("role", told.error ? "alert" : "status");
  stage.hidden = !props.picture;
  const verdict = find(".verdict");
  verdict.hidden = !told.verdict;
  verdict.firstElementChild.textContent = told.verdict?.head ?? "", verdict.lastElementChild.textContent = told.verdict?.says ?? "";
  verdict.classList.toggle("doubt", Boolean(told.verdict && !told.verdict.ok));
  if (!told.frames) {
    answer = null;
    words.replaceChildren(), find(".scores").replaceChildren(), brush(null);
    for (const part of [".controls", "figcaption"]) find(part).hidden = true;
    find(".note").textContent = "", picture.style.filter = "";
    return draw();
  }
  const same = answer && answer.text === told.text;
  if (!same) (pinned = null), (hovered = null), brush(null);
  answer = { ...told, frames: told.frames.map((f) => ({ ...f, map: decode(f.map) })), maps: Object.fromEntries(Object.entries(told.wordMaps).map(([i, m]) => [i, decode(m)])) };
  for (const part of [".controls", "figcaption"]) find(part).hidden = false;
  step.max = told.frames.length, step.value = told.frames.length;
  find(".replay").hidden = told.frames.length < 2 || told.running;
  find(".replay output").textContent = `${step.value} of ${step.max}`;
  if (!same || words.children.length !== told.words.length) words.replaceChildren(...told.words.map(chip));
  find(".scores").replaceChildren(...told.scores.flatMap(([name, value]) => {
    const [term, number] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name, number.textContent = value;
    return [number, term];
  }));
  element.dataset.state = told.running ? "running" : told.exact === false ? "first" : "done";
  draw(), shade(), ask();
}

const place = (event) => {
  const area = stage.getBoundingClientRect();
  return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height].map((v) => Math.min(1, Math.max(0, v)));
};
let start = null;
stage.addEventListener("pointerdown", (event) => { start = place(event); stage.setPointerCapture(event.pointerId); brush(null); });
stage.addEventListener("pointermove", (event) => {
  if (!start) return;
  const end = place(event);
  if (Math.hypot(end[0] - start[0], end[1] - start[1]) > 0.02) brush([0, 1].map((k) => Math.min(start[k], end[k])).concat([0, 1].map((k) => Math.max(start[k], end[k]))));
});
for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { start = null; });
stage.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.key === "Escape") return brush(null);
  if (!move) return;
  event.preventDefault();
  const [l, t, r, b] = brushed ?? [0.375, 0.375, 0.625, 0.625], [dx, dy] = move.map((d) => d / 16);
  const limit = (v, low, high) => Math.min(high, Math.max(low, v));
  if (event.shiftKey) brush([l, t, limit(r + dx, l + 1 / 16, 1), limit(b + dy, t + 1 / 16, 1)]);
  else if (!brushed) brush([l, t, r, b]);
  else { const [x, y] = [limit(l + dx, 0, 1 - (r - l)), limit(t + dy, 0, 1 - (b - t))]; brush([x, y, x + r - l, y + b - t]); }
});
strength.addEventListener("input", draw), patches.addEventListener("change", draw);
step.addEventListener("input", () => { find(".replay output").textContent = `${step.value} of ${step.max}`; draw(), shade(); });
picture.addEventListener("load", draw);
const show = () => { picture.hidden = !props.picture; if (props.picture) picture.src = props.picture; else picture.removeAttribute("src"); receive(); };
watch("picture", show), watch("value", receive);
ramp(), show();
