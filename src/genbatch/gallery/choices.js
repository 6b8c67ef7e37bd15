// Choosing: keep, reject, stars and notes for the take that is seen; with undo, and as text

const STORED = `genbatch ${location.pathname}`; // what this browser keeps of this page
const STARS = [1, 2, 3, 4, 5];
const takes = new Map(); // by file
const undone = []; // files with what had been chosen of them, the latest at the end

// Keep what has changed; the live page has a server for it.
let save = (changes) => {
  try {
    localStorage.setItem(STORED, JSON.stringify({ ...stored(), ...changes }));
  } catch {
    $("notice").textContent = "This browser keeps no choices: copy them before you leave.";
  }
};

function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORED)) ?? {};
  } catch {
    return {}; // switched off, or written by another page
  }
}

function restoreChoices() {
  if (!page.live) {
    for (const [file, choice] of Object.entries(stored())) {
      if (takes.has(file)) Object.assign(takes.get(file), cleaned(choice ?? {}));
    }
  }
  tellChosen();
}

const cleaned = ({ verdict, stars, note }) => ({
  verdict: ["keep", "reject"].includes(verdict) ? verdict : null,
  stars: STARS.includes(stars) ? stars : null,
  note: typeof note === "string" ? note : "",
});
const hasChoice = ({ verdict, stars, note }) => Boolean(verdict || stars || note);
const isChosen = (take, wanted) =>
  !wanted ||
  (take && (wanted > 0 ? take.stars >= wanted : (take.verdict ?? "undecided") === wanted));

function controlsOfChoices() {
  if (!takes.size) return [];
  const choices = [
    ["", "Choice"],
    ["keep", "Kept"],
    ["reject", "Rejected"],
    ["undecided", "Undecided"],
    ...STARS.map((stars) => [`${stars}`, "★".repeat(stars) + (stars < 5 ? " or more" : "")]),
  ];
  const orders = [
    ["number", "By number"],
    ["stars", "Best first"],
    ["made", "Newest first"],
    ["cost", "Dearest first"],
  ];
  return [
    select("Choice", choices, want.choice, (choice) => (want.choice = choice)),
    select("Order", orders, want.sort, (order) => (want.sort = order)),
  ];
}

function sorted(chosen) {
  const worth = {
    stars: (take) => (take.stars ?? 0) + { keep: 0.5, reject: -10 }[take.verdict] || take.stars || 0,
    made: (take) => Date.parse(`${take.made?.replace(" ", "T")}Z`) || 0,
    cost: (take) => take.cost ?? 0,
  }[want.sort];
  if (!worth) return chosen;
  const worths = new Map(chosen.map((item) => [item, takeOf(item) ? worth(takeOf(item)) : -20]));
  return chosen.sort((a, b) => worths.get(b) - worths.get(a));
}

function change(take, changes) {
  undone.push([take.file, cleaned(take)]);
  put(take, { ...cleaned(take), ...changes });
}

function put(take, choice) {
  Object.assign(take, choice);
  save({ [take.file]: choice });
  for (const tile of canvas.querySelectorAll(".tile")) {
    const item = shown[tile.dataset.at];
    if (takeOf(item) === take) markChoice(tile, item);
  }
  tellChosen();
  if (box.open) tellChoice();
}

function undo() {
  const [file, before] = undone.pop() ?? [];
  if (!takes.has(file)) return;
  put(takes.get(file), before);
  const at = shown.findIndex((item) => item.takes?.includes(takes.get(file)));
  if (at < 0 || panes.length) return;
  if (box.open) view(at, takes.get(file));
  else reveal(at);
}

// Do what a key says about the image that has the focus, or is open; return whether it says so.
function chooseBy({ key, ctrlKey, metaKey, altKey }) {
  const letter = key.toLowerCase();
  if ((ctrlKey || metaKey) && letter === "z") return undo(), true;
  if (ctrlKey || metaKey || altKey) return false;
  const isOnTile = document.activeElement?.classList.contains("tile");
  if (isOnTile && !box.open) current = Number(document.activeElement.dataset.at);
  const take = box.open ? viewed.take : isOnTile ? takeOf(shown[current]) : undefined;
  if (letter === "u") return undo(), true;
  if (key === " " && box.open && !isOnControl()) return compareOrMark(), true;
  if (key === " " && isOnTile) return compareOrMark(), true;
  if (letter === "z" && box.open) return zoomToPixels(), true;
  if (!take) return false;
  const verdict = { k: "keep", x: "reject" }[letter];
  const stars = /^[0-5]$/.test(key) ? Number(key) : -1;
  if (verdict) change(take, { verdict: take.verdict === verdict ? null : verdict });
  else if (stars >= 0) change(take, { stars: stars && take.stars !== stars ? stars : null });
  else return false;
  if ($("advance").checked && (verdict ? take.verdict : take.stars)) advance();
  return true;
}

const isOnControl = () =>
  $("panel").contains(document.activeElement) && document.activeElement !== $("close");

function advance() {
  if (panes.length || current + 1 >= shown.length) return;
  if (box.open) view(current + 1);
  else reveal(current + 1);
}

// Telling what was chosen

function markChoice(tile, item) {
  const take = takeOf(item);
  tile.classList.toggle("kept", take?.verdict === "keep");
  tile.classList.toggle("rejected", take?.verdict === "reject");
  tile.classList.toggle("marked", marked.includes(item));
  const signs = [{ keep: "✓", reject: "✕" }[take?.verdict], take?.stars && "★".repeat(take.stars)];
  const textContent = signs.filter(Boolean).join(" ");
  tile.querySelector(".sign")?.remove();
  if (textContent) tile.append(make("span", { className: "sign", textContent }));
}

function tellChosen() {
  const made = present.filter(({ takes }) => takes?.length);
  const having = (verdict) => made.filter(({ takes }) => takes.some((it) => it.verdict === verdict));
  const [kept, rejected] = [having("keep").length, having("reject").length];
  const parts = [
    (kept || rejected) && `${count(kept)} of ${count(made.length)} kept`,
    rejected && `${count(rejected)} rejected`,
  ];
  $("kept").textContent = parts.filter(Boolean).join(", ");
  $("copy-choices").hidden = ![...takes.values()].some(hasChoice);
}

function tellChoice() {
  const { take } = viewed;
  $("choosing").hidden = !take;
  if (!take) return;
  for (const button of $("choosing").querySelectorAll("[data-key]")) {
    const { key } = button.dataset;
    const isOn = { k: take.verdict === "keep", x: take.verdict === "reject" }[key];
    if (isOn !== undefined) button.ariaPressed = isOn;
    if (key > 0) button.textContent = key <= (take.stars ?? 0) ? "★" : "☆";
    if (key > 0) button.ariaPressed = Number(key) === take.stars;
  }
  if (document.activeElement !== $("note")) $("note").value = take.note ?? "";
}

for (const stars of STARS) {
  const about = { type: "button", ariaLabel: count(stars, "star"), ariaKeyShortcuts: stars };
  const button = make("button", about);
  button.dataset.key = stars;
  $("stars").append(button);
}
$("choosing").onclick = ({ target, detail }) => {
  const { key } = target.closest("[data-key]")?.dataset ?? {};
  if (!key) return;
  if (detail) $("close").focus({ focusVisible: false }); // Space is to compare, not this again
  if (key === " ") compareOrMark();
  else chooseBy({ key });
};
$("note").onchange = ({ target }) => change(viewed.take, { note: target.value.trim() });
$("copy-choices").onclick = () => {
  const lines = [...takes.values()].filter(hasChoice).map(
    ({ verdict, stars, file, note }) =>
      `${verdict ?? "-"} ${stars ?? "-"} ${file}${note ? `: ${note}` : ""}`,
  );
  const textContent = [`# genbatch keep ${directory()} --from -`, ...lines, ""].join("\n");
  const text = make("pre", { className: "copied", textContent });
  document.body.append(text);
  copy(text, $("copy-choices")).then((isDone) => isDone && text.remove());
};
