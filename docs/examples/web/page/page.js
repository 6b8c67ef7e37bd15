// One request is one batch: its response brings an event for each image, and aborting it, as
// closing the tab does too, ends the batch. What people typed is only ever set as text.

const $ = (id) => document.getElementById(id);
let batch = null; // aborts the one that runs

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const prompts = $("prompts").value.split("\n").filter((line) => line.trim());
  if (batch || !prompts.length) return;
  batch = new AbortController();
  const tiles = prompts.map(tile);
  $("images").replaceChildren(...tiles);
  $("bar").max = prompts.length;
  $("bar").value = 0;
  $("text").textContent = "";
  show(true, `Making ${count(prompts.length)}.`);
  show(false, await make(prompts, tiles, batch.signal));
  batch = null;
});

$("cancel").addEventListener("click", () => batch?.abort());

/** Make the images, fill their tiles, and return how it ended. */
async function make(prompts, tiles, signal) {
  let made = 0;
  let done = 0;
  try {
    const response = await fetch("batches", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(prompts),
      signal,
    });
    if (!response.ok) return `It did not begin: ${await response.text()}`;
    for await (const news of events(response)) {
      if (news.image) made += fill(tiles[news.index], news.image);
      if (news.error) fail(tiles[news.index], news.error);
      done = $("bar").value = news.done;
      $("text").textContent = news.progress;
    }
  } catch (error) {
    if (!signal.aborted) console.error(error);
  }
  const result = `${made} of ${count(prompts.length)} made.`;
  if (done === prompts.length) return `Finished: ${result}`;
  return `${signal.aborted ? "Cancelled" : "The connection was lost"}: ${result}`;
}

/** Yield what the events of a response say; each is one line of JSON. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", piece = await reader.read(); !piece.done; piece = await reader.read()) {
    const whole = (rest + piece.value).split("\n\n");
    rest = whole.pop();
    for (const event of whole) yield JSON.parse(event.slice("data: ".length));
  }
}

function tile(prompt) {
  const item = document.createElement("li");
  const frame = document.createElement("div");
  const caption = document.createElement("p");
  frame.className = "frame";
  caption.textContent = prompt;
  item.append(frame, caption);
  return item;
}

function fill(item, name) {
  const image = new Image();
  image.src = `images/${encodeURIComponent(name)}`;
  image.alt = item.lastChild.textContent;
  item.firstChild.replaceChildren(image);
  item.className = "done";
  return 1;
}

function fail(item, error) {
  item.firstChild.textContent = error;
  item.className = "failed";
}

function show(running, status) {
  $("make").disabled = running;
  $("cancel").disabled = !running;
  $("progress").hidden = !running;
  $("images").className = running ? "running" : "";
  $("status").textContent = status;
}

function count(images) {
  return images === 1 ? "1 image" : `${images} images`;
}
