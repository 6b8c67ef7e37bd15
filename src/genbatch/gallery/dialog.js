// The dialog: one image, and all that is known of it

function view(at, take = takeOf(shown[at])) {
  const item = shown[at];
  if (!item) return;
  current = at;
  endComparing();
  resetZoom();
  tell(item, take);
  show(item, take);
  if (!box.open) box.showModal();
  for (const each of [box, $("panel")]) each.scrollTo(0, 0);
}

function tellPlace() {
  $("place").textContent = `${count(current + 1)} of ${count(shown.length)}`;
  $("previous").ariaDisabled = current === 0;
  $("next").ariaDisabled = current === shown.length - 1;
}

function tell(item, take) {
  viewed = { item, take };
  tellPlace();
  $("number").textContent = item.index === null ? "Superseded" : `Prompt ${item.index}`;
  $("prompt").textContent = take?.prompt ?? item.prompt;
  $("details").replaceChildren(...detailsOf(item, take));
  $("commands").replaceChildren(...commandsOf(item, take));
  $("takes").replaceChildren(...takesOf(item, take));
  tellChoice();
}

function show(item, take) {
  const picture = faceOf(item, take); // the thumbnail at once, the whole image when it is there
  picture.id = "picture";
  $("picture").replaceWith(picture);
  if (!take?.size) return;
  make("img", { onload: ({ target }) => (picture.src = target.src), src: urlOf(take.file) });
  const next = takeOf(shown[current + 1]);
  if (next?.size) make("img", { src: urlOf(next.file) });
}

function takesOf(item, shownTake) {
  if (!(item.takes?.length > 1)) return [];
  return item.takes.map((take) => {
    const picked = take === takeOf(item) ? ", picked" : "";
    const about = { ariaLabel: `Take ${take.take}${picked}`, ariaPressed: take === shownTake };
    const button = make("button", { type: "button", ...about }, faceOf(item, take));
    button.append(`${take.take}${picked && " ✓"}`);
    button.onclick = () => {
      view(current, take);
      $("takes").querySelector("[aria-pressed=true]").focus();
    };
    return button;
  });
}

function detailsOf(item, take) {
  const link = (file) => make("a", { href: urlOf(file), target: "_blank", textContent: file });
  const given = { ...(take?.asked ?? item.asked), ...item.metadata };
  const details = [
    ["Id", item.id],
    ["Model", take?.model ?? item.model],
    ...Object.entries(given).map(([name, value]) => [named(name), value]),
    ["Reply", take?.text],
    ["Cost", take?.cost !== undefined && dollars(take.cost)],
    ["Took", take?.elapsed !== undefined && `${take.elapsed.toFixed(1)} s`],
    ["Made", take?.made && moment(new Date(`${take.made.replace(" ", "T")}Z`))],
    ["Size", take && [take.size?.join(" × "), weight(take.bytes)].filter(Boolean).join(", ")],
    ["File", take && link(take.file)],
    ["", take?.size && take.problem],
    ...(take?.extras ?? []).map((file) => ["Beside it", link(file)]),
  ].filter(([, value]) => value);
  return details.flatMap(([name, value]) => [
    make("dt", { textContent: name, dir: "auto" }),
    make("dd", { dir: "auto" }, value),
  ]);
}

function commandsOf(item, take) {
  const space = item.namespace ?? "";
  if (item.index === null || item.status === "to do" || !(space in OPTIONS)) return [];
  const prompt = `${directory()} ${item.index}`;
  const redo = `genbatch redo ${prompt}${OPTIONS[space]}`;
  const pick = `genbatch pick ${prompt} ${take?.take}${OPTIONS[space]}`;
  const isPicked = take === takeOf(item);
  const buttons = (isPicked || page.live ? [redo] : [pick, redo]).map((command) => {
    const [code, label] = [make("code", {}, command), make("span", {}, "Copy")];
    const button = make("button", { type: "button", className: "command" }, code, label);
    button.onclick = () => copy(code, label);
    return button;
  });
  if (page.live && !isPicked) {
    const button = make("button", { type: "button", textContent: `Pick take ${take.take}` });
    button.onclick = () => pickTake(take);
    buttons.unshift(button);
  }
  return buttons;
}

// Where this page was opened from, as a shell takes it.
function directory() {
  let path = page.folder ?? page.name;
  if (location.protocol === "file:") {
    path = decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "").replace(/^\/(?=\w:)/, "");
  }
  if (/^[\w@%+=:,./-]+$/.test(path)) return path;
  return `'${path.replaceAll("'", String.raw`'\''`)}'`;
}

async function copy(element, label) {
  const before = (label.dataset.before ??= label.textContent);
  try {
    await navigator.clipboard.writeText(element.textContent);
    label.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(element);
    label.textContent = "Now press Ctrl+C";
  }
  $("told").textContent = label.textContent;
  setTimeout(() => (label.textContent = before), 1500);
  return label.textContent === "Copied";
}
