// Brings the parts together: what is drawn, dropped, pasted or picked is asked, and what comes back is shown.

import { ask, unlock } from "./api.js";
import { reset, show } from "./answer.js";
import { make } from "./dom.js";
import { Drawing } from "./drawing.js";
import { panels } from "./panels.js";
import { tabs } from "./tabs.js";

const at = (id) => document.getElementById(id);
const pathOf = (model, version) => `v2/models/${encodeURIComponent(model)}/versions/${encodeURIComponent(version)}`;
// `current` makes the picture that is on the page, `wanted` the one to ask next; both are null where there is none.
const state = { model: "", version: "", labels: [], current: null, wanted: null, asking: false };
const drawing = new Drawing(at("drawing"), () => want(drawing.empty ? null : () => drawing.png()));
let refill = null;

/** Ask for this picture, when the one under way is answered; one that was overtaken meanwhile is never asked. */
async function want(picture) {
  state.current = state.wanted = picture;
  if (!picture) reset(state.labels);
  if (state.asking) return;
  busy(true);
  while (state.wanted) {
    const next = state.wanted;
    state.wanted = null;
    try {
      const body = await next();
      const start = performance.now();
      const answer = await ask(`${pathOf(state.model, state.version)}/predict?picture=true`, body);
      const took = performance.now() - start;
      problem();
      if (state.current) show(answer, took);
    } catch (error) {
      problem(error);
    }
  }
  busy(false);
}

function busy(asking) {
  state.asking = asking;
  at("answer").setAttribute("aria-busy", String(asking));
}

/** Say what went wrong; without an error, that all is well again. */
function problem(error) {
  at("problem").hidden = !error || error.status === 401;
  at("problem").textContent = error?.message ?? "";
  if (error?.status === 401) at("unlock").hidden = false;
}

/** Take a picture file, and show it where one draws, if the browser can. */
async function take(file) {
  drawing.display(await createImageBitmap(file).catch(() => null));
  want(async () => file);
}

/** The bytes of a data URI; `fetch` would need a wider policy. */
function blob(uri) {
  const bytes = Uint8Array.from(atob(uri.split(",")[1]), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

function offer(examples) {
  at("examples").hidden = !examples.length;
  const buttons = examples.map(({ label, picture }) => {
    const button = make("button", { type: "button" }, make("img", { src: picture, alt: `Example: ${label}` }));
    button.addEventListener("click", () => take(blob(picture)));
    return button;
  });
  at("examples").replaceChildren(...buttons);
}

async function fill(name, panel) {
  const { model, version } = state;
  try {
    const content = await panels[name]({ model, version, path: pathOf(model, version), choose });
    if (model === state.model && version === state.version) panel.replaceChildren(...content);
  } catch (error) {
    delete panel.dataset.filled;
    panel.replaceChildren(make("p", {}, error.message));
  }
}

/** Ask this version from now on, about what is drawn already, too. */
async function choose(model, version) {
  Object.assign(state, { model, version });
  at("version").value = JSON.stringify([model, version]);
  const { labels, examples } = await ask(`${pathOf(model, version)}/examples`);
  state.labels = labels;
  offer(examples);
  want(state.current);
  if (refill) refill();
  else refill = tabs(document.querySelector('[role="tablist"]'), fill);
}

async function start() {
  try {
    const [known, first] = await Promise.all([ask("v2/repository/index", '{"ready": true}'), ask("page.json")]);
    const options = known.map(({ name, version }) =>
      make("option", { value: JSON.stringify([name, version]) }, `${name}, version ${version}`),
    );
    at("version").replaceChildren(...options);
    await choose(first.name, first.version);
    at("unlock").hidden = true;
    problem();
  } catch (error) {
    problem(error);
  }
}

at("undo").addEventListener("click", () => drawing.undo());
at("clear").addEventListener("click", () => drawing.clear());
at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  if (at("file").files.length) take(at("file").files[0]);
  at("file").value = "";
});
at("version").addEventListener("change", () => {
  choose(...JSON.parse(at("version").value)).catch(problem);
});
at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  unlock(at("key").value);
  start();
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
  if (file) take(file);
});
start();
