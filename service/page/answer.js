// What the network said: the picture that it got, the best class, and a bar for each class.

import { divide, make } from "./dom.js";

const MOST_BARS = 20; // with more classes only the most probable are shown
const PAUSE = 600; // milliseconds without a change after which the result is read out

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
let reading;

/** Show an answer of /predict, and how many milliseconds it took. */
export function show(answer, milliseconds) {
  const labels = answer.labels ?? answer.probabilities.map((_, index) => String(index));
  const { sign, name } = divide(answer.label);
  at("best").replaceChildren(
    make("span", { class: "glyph", lang: sign ? "ja" : "en" }, sign || name),
    " ",
    make("span", { class: "name" }, `${sign ? `${name}, ` : ""}${percent(answer.probability)}`),
  );
  at("picture").src = answer.picture;
  at("picture").alt = `The picture that the network got; it reads ${answer.label}`;
  at("picture").hidden = false;
  at("no-picture").hidden = true;
  at("fact-model").textContent = `${answer.model_name}, version ${answer.model_version}`;
  at("fact-latency").textContent = `${milliseconds.toFixed(1)} ms`;
  at("fact-polarity").textContent = answer.inverted ? "sent dark on light, inverted" : "sent light on dark";
  bars(answer.probabilities, labels, answer.class);
  clearTimeout(reading);
  reading = setTimeout(() => {
    at("status").textContent = `${answer.label}, ${percent(answer.probability)}`;
  }, PAUSE);
}

/** Show that nothing was asked. */
export function reset(labels) {
  clearTimeout(reading);
  at("status").textContent = "";
  at("best").replaceChildren(make("span", { class: "glyph" }, "?"));
  at("picture").hidden = true;
  at("no-picture").hidden = false;
  for (const id of ["fact-model", "fact-latency", "fact-polarity"]) at(id).textContent = "–";
  bars(labels.map(() => 0), labels, -1);
}

function bars(probabilities, labels, best) {
  let order = probabilities.map((_, index) => index);
  if (order.length > MOST_BARS) {
    order.sort((a, b) => probabilities[b] - probabilities[a]);
    order = order.slice(0, MOST_BARS / 2);
  }
  const list = at("bars");
  while (list.children.length > order.length) list.lastChild.remove();
  while (list.children.length < order.length) list.append(bar());
  order.forEach((index, place) => {
    const row = list.children[place];
    const label = labels[index];
    if (row.dataset.label !== label) {
      row.dataset.label = label;
      const { sign, name } = divide(label);
      row.querySelector(".sign").textContent = sign;
      row.querySelector(".sign").hidden = !sign;
      row.querySelector(".name").textContent = name;
      row.querySelector(".name").classList.toggle("wide", !sign);
    }
    row.classList.toggle("best", index === best);
    row.querySelector(".fill").style.width = `${100 * probabilities[index]}%`;
    row.querySelector(".number").textContent = best < 0 ? "–" : percent(probabilities[index]);
  });
}

function bar() {
  return make(
    "li",
    {},
    make("span", { class: "sign", lang: "ja" }),
    make("span", { class: "name" }),
    make("span", { class: "track", "aria-hidden": "true" }, make("span", { class: "fill" })),
    make("span", { class: "number" }),
  );
}
