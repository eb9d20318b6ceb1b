"use strict";
// The page's data are plain text and numbers: they reach the document through textContent and canvases only.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const slider = byId("time");
const state = { video: null, images: [], panels: [], time: 0, pinned: null, hovered: null, timer: null };

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const rgb = (colour) => (colour === null ? "transparent" : `rgb(${colour.join(",")})`);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// Runs of (place in the panel's ids, length), as numbers of seven bits a byte.
function decodeLabels(text, size) {
  const labels = new Uint16Array(size);
  const read = bytes(text);
  let at = 0;
  let filled = 0;
  const next = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = read[at++];
      value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < read.length) {
    const index = next();
    const length = next();
    labels.fill(index, filled, filled + length);
    filled += length;
  }
  return labels;
}

// The track to show alone, if any: what the mouse is on, else what was clicked.
const chosen = () => (state.hovered !== null ? state.hovered : state.pinned);

function drawLabels(pixels, panel, labels, width) {
  const only = panel.spec.tracks ? chosen() : null;
  const blank = panel.spec.blank !== null && state.time >= panel.spec.blank;
  const out = pixels.data;
  for (let i = 0, p = 0; i < labels.length; i++, p += 4) {
    const label = labels[i];
    const colour = panel.spec.colours[label]; // null: not coloured
    const mine = only === null || panel.spec.ids[label] === only;
    const column = i % width;
    const before = (column > 0 && labels[i - 1] !== label) || (i >= width && labels[i - width] !== label);
    const after = (column + 1 < width && labels[i + 1] !== label) || (i + width < labels.length && labels[i + width] !== label);
    const border = before || (only !== null && after); // a line of one pixel between slots, all around one alone
    for (let c = 0; c < 3; c++) {
      let value = blank ? 0 : out[p + c];
      const own = colour === null ? value : colour[c];
      if (only === null) value = border ? 255 : blank || colour === null ? own : 0.45 * value + 0.55 * own;
      else if (mine) value = border || blank ? own : value;
      else value = 0.2 * value;
      out[p + c] = value;
    }
  }
}

function drawHeat(panel, width, height) {
  const context = panel.context;
  const maps = state.video.heat.frames[state.time];
  const map = chosen() === null ? undefined : maps[chosen()];
  context.fillStyle = "rgba(0,0,0,.6)";
  context.fillRect(0, 0, width, height);
  if (map === undefined) return;
  const [rows, columns] = state.video.heat.grid;
  const small = new OffscreenCanvas(columns, rows);
  const cells = new ImageData(columns, rows);
  bytes(map).forEach((value, i) => {
    cells.data.set([Math.min(255, 3 * value), Math.max(0, Math.min(255, 3 * value - 255)), Math.max(0, 3 * value - 510), value], 4 * i);
  });
  small.getContext("2d").putImageData(cells, 0, 0);
  context.drawImage(small, 0, 0, width, height);
}

function draw() {
  const { video, time } = state;
  const { width, height } = video;
  for (const panel of state.panels) {
    const shown = panel.spec.hold === null ? time : Math.min(time, panel.spec.hold - 1);
    panel.context.drawImage(state.images[shown], 0, 0, width, height);
    if (panel.spec.labels !== null) {
      const pixels = panel.context.getImageData(0, 0, width, height);
      panel.labels = decodeLabels(panel.spec.labels[shown], width * height);
      drawLabels(pixels, panel, panel.labels, width);
      panel.context.putImageData(pixels, 0, 0);
    }
    if (panel.spec.heat) drawHeat(panel, width, height);
  }
  byId("frame").textContent = `frame ${video.index[time] + 1} of ${video.total}`;
  const now = document.querySelector("#curve .now");
  if (now) {
    const x = place(time);
    now.setAttribute("x1", x);
    now.setAttribute("x2", x);
  }
  const track = chosen();
  byId("isolated").textContent = track === null ? "Point at a slot, or click it, to see it alone." : `slot track ${track} alone`;
  for (const row of document.querySelectorAll("#tracks tbody tr")) {
    row.setAttribute("aria-selected", String(Number(row.dataset.track) === track));
  }
}

function seek(time) {
  state.time = Math.max(0, Math.min(state.video.frames.length - 1, time));
  slider.value = state.time;
  draw();
}

function play(on) {
  clearInterval(state.timer);
  state.timer = on ? setInterval(() => seek((state.time + 1) % state.video.frames.length), 1000 / state.video.fps) : null;
  byId("play").textContent = on ? "pause" : "play";
}

function hover(track) {
  if (state.hovered !== track) {
    state.hovered = track;
    draw();
  }
}

function pin(track) {
  state.pinned = track === null || state.pinned === track ? null : track;
  state.hovered = null;
  draw();
}

// The track under the mouse; null where no slot lives.
function trackAt(panel, event) {
  const box = panel.context.canvas.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * state.video.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * state.video.height);
  const id = panel.spec.ids[panel.labels[y * state.video.width + x]];
  return id === undefined || id < 0 ? null : id;
}

function buildPanels(video) {
  const specs = [...video.panels];
  if (video.heat !== null) specs.push({ title: "attention of the slot shown alone", labels: null, hold: null, blank: null, heat: true });
  state.panels = specs.map((spec) => {
    const canvas = element("canvas", null, { width: video.width, height: video.height });
    const panel = { spec, context: canvas.getContext("2d", { willReadFrequently: true }), labels: null };
    if (spec.tracks) {
      canvas.className = "tracks";
      canvas.addEventListener("mousemove", (event) => hover(trackAt(panel, event)));
      canvas.addEventListener("mouseleave", () => hover(null));
      canvas.addEventListener("click", (event) => pin(trackAt(panel, event)));
    }
    return panel;
  });
  byId("panels").replaceChildren(
    ...state.panels.map((panel) => {
      const figure = element("figure", null);
      figure.append(element("figcaption", panel.spec.title), panel.context.canvas);
      return figure;
    }),
  );
}

function row(cells, tag = "td") {
  const made = element("tr", null);
  made.append(...cells.map((cell) => (cell instanceof Node ? cell : element(tag, cell === null ? "-" : String(cell)))));
  return made;
}

function buildTracks(video) {
  const head = element("thead", null);
  const titles = ["track", "frames alive", "first", "last", "size", ...(video.truth ? ["switches"] : [])];
  head.append(row(titles, "th"));
  head.querySelectorAll("th")[4].title = "mean part of the picture, over the frames in which it lives";
  if (video.truth) head.querySelectorAll("th")[5].title = "how often the true object under most of it changes from one frame to the next";
  const body = element("tbody", null);
  for (const track of video.tracks) {
    const name = element("td", null);
    const chip = element("span", "", { class: "chip" });
    chip.style.background = rgb(track.colour);
    name.append(chip, String(track.id));
    const cells = [name, track.alive, track.first + 1, track.last + 1, `${(100 * track.size).toFixed(1)} %`];
    const made = row(video.truth ? [...cells, track.switches] : cells);
    made.dataset.track = track.id;
    made.addEventListener("mouseenter", () => hover(track.id));
    made.addEventListener("mouseleave", () => hover(null));
    made.addEventListener("click", () => pin(track.id));
    body.append(made);
  }
  byId("tracks").replaceChildren(head, body);
}

const CURVE = { width: 800, height: 160, left: 50, right: 10, top: 10, bottom: 20 };
const place = (time) =>
  CURVE.left + ((CURVE.width - CURVE.left - CURVE.right) * time) / Math.max(1, state.video.frames.length - 1);

function svg(tag, attributes, text = null) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== null) made.textContent = text;
  return made;
}

function buildCurve(video) {
  if (video.curve === null) return byId("curve").replaceChildren();
  const values = video.curve.series.flatMap((one) => one.values).filter((value) => value !== null);
  const top = Math.max(...values, 1e-9);
  const bottom = CURVE.height - CURVE.bottom;
  const y = (value) => bottom - ((bottom - CURVE.top) * value) / top;
  const picture = svg("svg", { viewBox: `0 0 ${CURVE.width} ${CURVE.height}`, role: "img" });
  picture.append(
    svg("line", { class: "axis", x1: CURVE.left, x2: CURVE.width - CURVE.right, y1: bottom, y2: bottom }),
    svg("line", { class: "now", x1: place(0), x2: place(0), y1: CURVE.top, y2: bottom }),
    svg("text", { x: 2, y: CURVE.top + 8 }, top.toPrecision(3)),
    svg("text", { x: 2, y: bottom }, "0"),
  );
  video.curve.series.forEach((one, number) => {
    const points = one.values.flatMap((value, time) => (value === null ? [] : [`${place(time)},${y(value)}`]));
    const colour = `hsl(${(number * 137) % 360} 70% 50%)`;
    picture.append(svg("polyline", { points: points.join(" "), stroke: colour }));
    picture.append(svg("text", { x: CURVE.left + 6 + 150 * number, y: CURVE.height - 5, style: `fill:${colour}` }, one.name));
  });
  byId("curve").replaceChildren(element("figcaption", video.curve.title), picture);
}

async function show(video, button) {
  play(false);
  const images = await Promise.all(
    video.frames.map(async (source) => {
      const image = new Image();
      image.src = `data:image/jpeg;base64,${source}`;
      await image.decode();
      return image;
    }),
  );
  for (const other of document.querySelectorAll("nav button")) other.setAttribute("aria-current", String(other === button));
  Object.assign(state, { video, images, pinned: null, hovered: null });
  byId("name").textContent = video.name;
  byId("notes").textContent = video.notes.join(" ");
  slider.max = video.frames.length - 1;
  buildPanels(video);
  buildTracks(video);
  byId("facts").replaceChildren(...video.facts.map(([name, value]) => row([name, value])));
  buildCurve(video);
  seek(0);
}

let first = null;
for (const group of data.groups) {
  if (data.groups.length > 1) byId("videos").append(element("h3", group.title));
  byId("videos").append(...group.notes.map((note) => element("p", note)));
  for (const video of group.videos) {
    const button = element("button", video.name, { type: "button" });
    if (video.headline) button.append(element("small", video.headline));
    button.addEventListener("click", () => show(video, button));
    byId("videos").append(button);
    first = first || button;
  }
}
slider.addEventListener("input", () => seek(Number(slider.value)));
byId("play").addEventListener("click", () => play(state.timer === null));
document.addEventListener("keydown", (event) => {
  if (state.video === null) return;
  if (event.key === " " && event.target.tagName !== "BUTTON") play(state.timer === null);
  else if (event.key === "Escape") pin(null);
  else if (event.key === "ArrowRight" && event.target !== slider) seek(state.time + 1);
  else if (event.key === "ArrowLeft" && event.target !== slider) seek(state.time - 1);
  else return;
  event.preventDefault();
});
if (first) first.click();
