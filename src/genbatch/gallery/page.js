"use strict";
// What others have written reaches the page through textContent and properties, never as markup.
// What is shown is laid out as rows, of which the document has those near the window only.

const $ = (id) => document.getElementById(id);
const page = JSON.parse($("page").textContent);
let { items, fields } = page; // a field is its name and its values
let present = items.filter((item) => item.index !== null);
const [canvas, box] = [$("canvas"), $("box")];
const CAPTION = 44; // pixels below an image, and of the head of a table
const GAP = 16; // pixels between images
const LEAST_TILE = 72; // pixels beside one another in a cell
const TALLEST_TILE = 260; // pixels of a tile in a cell
const MOST_LINES = 8; // of tiles in a row that is drawn as one
const NONE = "—"; // of what has no value
const OPTIONS = { "": "", demo: " --demo" }; // of commands, by namespace
const AHEAD = 800; // pixels above and below the window that are drawn too

const FAST = 5; // pixels in a millisecond
const PAUSE = 120; // milliseconds without fast scrolling

const want = {
  words: [],
  status: "",
  values: fields.map(() => -1), // of each field the number of the one that is wanted
  superseded: false,
  choice: "",
  sort: "number",
  table: false,
  columns: page.axes?.[0] ?? 0,
  rows: page.axes?.[1] ?? 1,
};
let shown = []; // items that match, in the order in which they are seen
let rows = []; // of the layout: top, height, cells with their tiles; start and end in shown
let drawn = new Map(); // elements of rows, by number
let lastDrawn = { top: 0, when: -Infinity }; // where the canvas was when rows were last drawn
let held; // the timer of images that are not loaded yet
let width; // pixels there are for rows
let viewed; // the item and the take that the dialog tells of
let current = 0; // place in shown of the one image that Tab leads to

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function place(element, sides) {
  for (const [side, pixels] of Object.entries(sides)) element.style[side] = `${pixels}px`;
  return element;
}

const count = (number, noun = "") =>
  number.toLocaleString("en") + (noun && ` ${noun}${number === 1 ? "" : "s"}`);
const dollars = (usd) => `$${usd.toFixed(usd && usd < 0.1 ? 4 : 2)}`;
const moment = (date) => date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
const named = (name) => name.slice(0, 1).toUpperCase() + name.slice(1).replaceAll("_", " ");
const weight = (bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
const takeOf = (item) => item?.takes?.[item.shown ?? 0];
const urlOf = (file) => encodeURIComponent(file);
const thumbOf = (take) => `.genbatch/thumbs/${take.sha256}-${take.size.join("x")}.webp`;
const isTable = () => want.table && want.columns !== want.rows;
const matches = (item) =>
  (want.superseded || item.index !== null) &&
  (!want.status || item.status === want.status) &&
  isChosen(takeOf(item), want.choice) &&
  want.values.every((value, field) => value < 0 || item.at[field] === value) &&
  want.words.every((word) => item.text.includes(word));
