"use strict";

/* Tables: a heading sorts, a field filters. What has no value is last in either order. */
function sortBy(table, column, order) {
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => {
    const cell = row.cells[column];
    const raw = cell.dataset.sort;
    const numeric = cell.classList.contains("number");
    return { row, empty: raw === "", key: numeric ? Number(raw) : raw };
  });
  keyed.sort((a, b) => {
    if (a.empty || b.empty) return a.empty - b.empty;
    const compared = typeof a.key === "number" && typeof b.key === "number"
      ? a.key - b.key
      : String(a.key).localeCompare(String(b.key), "en", { numeric: true });
    return order * compared;
  });
  body.append(...keyed.map((item) => item.row));
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const table = button.closest("table");
    const order = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", order === 1 ? "ascending" : "descending");
    sortBy(table, heading.cellIndex, order);
  });
}

for (const field of document.querySelectorAll("input[data-table]")) {
  const rows = Array.from(document.getElementById(field.dataset.table).tBodies[0].rows);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const count = document.querySelector(`[data-count="${field.dataset.table}"]`);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    rows.forEach((row, number) => {
      row.hidden = !words.every((word) => texts[number].includes(word));
      left += !row.hidden;
    });
    count.textContent = words.length ? `${left} of ${rows.length} rows` : `${rows.length} rows`;
  });
}

/* The viewer: a grey picture, and transparent ones on it. */
function startViewer(data) {
  const get = (id) => document.getElementById(id);
  const select = get("v-image");
  const stage = get("v-stage");
  const box = get("v-box");
  const names = [...new Set(data.pictures.flatMap((picture) => Object.keys(picture.layers)))];
  // only: the outcome that alone is coloured; "" for all
  const state = { picture: 0, method: Math.min(1, names.length - 1), zoom: 1, only: "" };

  const layer = (source, alt) => {
    const image = document.createElement("img");
    image.src = source;
    image.alt = alt;
    return image;
  };

  const rgb = (colour) => parseInt(colour.slice(1), 16);
  // The outcomes are colours in a picture. Here all but one of them are made transparent, or, where
  // all are shown, those that are right are made pale.
  const coloured = (source, picture) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.width, picture.height];
    canvas.className = state.only ? "only" : "";
    const image = new Image();
    const only = state.only && rgb(data.colours[state.only]);
    const found = rgb(data.colours.found);
    image.onload = () => {
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
      const bytes = pixels.data;
      for (let at = 0; at < bytes.length; at += 4) {
        const colour = (bytes[at] << 16) | (bytes[at + 1] << 8) | bytes[at + 2];
        if (only && colour !== only) bytes[at + 3] = 0;
        else if (!only && colour === found) bytes[at + 3] /= 3;
      }
      context.putImageData(pixels, 0, 0);
    };
    image.src = source;
    return canvas;
  };

  function show() {
    const picture = data.pictures[state.picture];
    const name = names[state.method];
    const found = picture.layers[name];
    const truth = picture.layers[data.truth];
    const images = [layer(picture.base, `Image ${picture.image}`)];
    if (get("v-colours").checked && found && found.outcomes) images.push(coloured(found.outcomes, picture));
    if (get("v-truth").checked && truth) images.push(layer(truth.outlines, ""));
    if (get("v-lines").checked && found) images.push(layer(found.outlines, `Outlines by ${name}`));
    stage.replaceChildren(...images);
    stage.style.width = `${picture.width * state.zoom}px`;
    stage.style.height = `${picture.height * state.zoom}px`;
    stage.classList.toggle("small", state.zoom < 1);
    select.value = String(state.picture);
    get("v-zoom").textContent = `${Math.round(100 * state.zoom)} %`;
    const said = found ? name : `${name}: no result for this image`;
    get("v-status").textContent = `${said}; image ${picture.image} (${picture.split}), ${picture.cut}.`;
    get("v-methods").childNodes.forEach((button, number) => {
      button.setAttribute("aria-pressed", String(number === state.method));
    });
    for (const button of get("v-outcomes").children) {
      const outcome = button.dataset.outcome;
      const count = found && found.counts ? ` ${found.counts[outcome]}` : "";
      button.querySelector("span:last-child").textContent = outcome + count;
      button.setAttribute("aria-pressed", String(outcome === state.only));
    }
  }

  const showOnly = (outcome) => {
    state.only = state.only === outcome ? "" : outcome;
    get("v-colours").checked = true;
    show();
  };

  // the picture that shows most cells of this outcome
  window.showCells = (name, outcome) => {
    const counts = data.pictures.map((picture) => picture.layers[name]?.counts?.[outcome] ?? -1);
    state.picture = counts.indexOf(Math.max(...counts));
    state.method = Math.max(0, names.indexOf(name));
    state.only = outcome;
    get("v-colours").checked = true;
    show();
    get("viewer").scrollIntoView();
    box.focus({ preventScroll: true });
  };

  const turn = (key, count, by) => {
    state[key] = (state[key] + by + count) % count;
    show();
  };
  const zoom = (by) => {
    const old = state.zoom;
    state.zoom = Math.min(16, Math.max(0.25, old * by));
    const ratio = state.zoom / old;
    const [x, y] = [box.scrollLeft + box.clientWidth / 2, box.scrollTop + box.clientHeight / 2];
    show();
    box.scrollTo(x * ratio - box.clientWidth / 2, y * ratio - box.clientHeight / 2);
  };
  const toggle = (id) => {
    get(id).checked = !get(id).checked;
    show();
  };

  data.pictures.forEach((picture, number) => {
    select.add(new Option(`${picture.image} (${picture.split})`, String(number)));
  });
  names.forEach((name, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => turn("method", names.length, number - state.method));
    get("v-methods").append(button);
  });
  select.addEventListener("change", () => {
    state.picture = Number(select.value);
    show();
  });
  Object.keys(data.colours).forEach((outcome) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.outcome = outcome;
    const key = document.createElement("span");
    key.className = "key";
    key.style.background = data.colours[outcome];
    button.append(key, document.createElement("span"));
    button.addEventListener("click", () => showOnly(outcome));
    get("v-outcomes").append(button);
  });
  for (const id of ["v-lines", "v-truth", "v-colours"]) get(id).addEventListener("change", show);
  get("v-in").addEventListener("click", () => zoom(2));
  get("v-out").addEventListener("click", () => zoom(0.5));
  const keys = {
    ArrowLeft: () => turn("method", names.length, -1),
    ArrowRight: () => turn("method", names.length, 1),
    ArrowUp: () => turn("picture", data.pictures.length, -1),
    ArrowDown: () => turn("picture", data.pictures.length, 1),
    "+": () => zoom(2),
    "=": () => zoom(2),
    "-": () => zoom(0.5),
    t: () => toggle("v-truth"),
    c: () => toggle("v-colours"),
    0: () => showOnly(""),
  };
  Object.keys(data.colours).forEach((outcome, number) => {
    keys[number + 1] = () => showOnly(outcome);
  });
  box.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });

  // begin at the picture's own size, or enlarged by a whole factor where that fits
  const fit = box.parentElement.clientWidth / data.pictures[0].width;
  state.zoom = Math.min(4, Math.max(1, 2 ** Math.floor(Math.log2(fit))));
  show();
}

const viewerData = document.getElementById("v-data");
if (viewerData) startViewer(JSON.parse(viewerData.textContent));

/* Numbers of cells: a click shows these cells in the viewer. */
for (const button of document.querySelectorAll("button.cells")) {
  button.disabled = !viewerData;
  button.addEventListener("click", () => window.showCells(button.dataset.method, button.dataset.outcome));
}
