// The tabs below the drawing: model card, fold, statistics and drift, versions.

import { ask, askIfThere } from "./api.js";
import { make, table } from "./dom.js";
import { markdown } from "./markdown.js";

const AFFINE = new Set(["BatchNormalization", "Mul", "Add", "Sub", "Div"]);
const WEIGHTS = new Set(["Conv", "ConvTranspose", "Gemm", "MatMul"]);
const digits = (number) => Number(number.toPrecision(4)).toString();

export const panels = { card, fold, statistics, versions };

async function card({ path }) {
  const found = await askIfThere(`${path}/card`);
  if (!found) return [make("p", {}, "This model came without a card.")];
  return markdown(found.markdown, found.pictures);
}

async function fold({ path }) {
  const graph = await ask(`${path}/graph`);
  const { reference, folded, layers } = graph;
  if (!reference) return [make("p", {}, "A bare model.onnx: nothing is known of how it was before."), column("Served", folded)];
  const fewer = reference.length - folded.length;
  const rows = layers.map((layer) => [layer.name, layer.status, layer.rules.join("; "), layer.into.join(", ")]);
  const parts = [
    make("p", {}, `${reference.length} operators as trained, ${folded.length} as served: ${fewer} fewer, and the same function.`),
    table("Where each normalisation went", ["layer", "", "by these steps", "absorbed by"], rows),
    make("div", { class: "graphs" }, column("As trained", reference), column("As served", folded)),
  ];
  if (graph.certificate) parts.splice(1, 0, certificate(graph.certificate));
  return parts;
}

function certificate(proof) {
  const tried = Object.entries(proof.inputs).map(([kind, count]) => `${count} ${kind}`).join(", ");
  return make(
    "p",
    {},
    `Proof: on ${tried} inputs the largest difference of a probability from the network as trained, computed in float64, ` +
      `was ${proof.max_abs_error.toPrecision(2)}; the most probable class was the same in ${digits(100 * proof.argmax_agreement)} %.`,
  );
}

function column(title, nodes) {
  const items = nodes.map(({ operator, name }) => {
    const kind = AFFINE.has(operator) ? "affine" : WEIGHTS.has(operator) ? "weights" : "other";
    return make("li", { class: kind }, operator, " ", make("small", {}, name));
  });
  return make("div", {}, make("h3", {}, `${title}: ${nodes.length}`), make("ol", {}, ...items));
}

async function statistics({ path, model, version }) {
  const { paths } = await ask("openapi.json");
  const there = (name) => (`/v2/models/{model}/${name}` in paths ? askIfThere(`${path}/${name}`) : null);
  const [report, drift] = await Promise.all([there("batchnorm"), there("drift")]);
  if (!report?.layers?.length) return [make("p", {}, "Nothing is known of this model's batch normalisation.")];
  const span = ({ min, max }) => `${digits(min)} … ${digits(max)}`;
  const rows = report.layers.map(({ name, channels, ranges, epsilon, fold }) => [
    name,
    channels,
    span(ranges.moving_mean),
    span(ranges.moving_variance),
    span(ranges.gamma),
    epsilon,
    fold.into.join(", "),
  ]);
  const head = ["layer", "channels", "moving mean", "moving variance", "γ", "ε", "folded into"];
  return [
    make("p", {}, "What each layer learned of the training data. It is in the weights now, and still here to compare with."),
    table("Batch-normalisation layers", head, rows),
    make("p", {}, make("a", { href: `batchnorm/${encodeURIComponent(model)}?version=${version}` }, "All channels, drawn"), ", or ",
      make("a", { href: `${path}/batchnorm?arrays=true` }, "as JSON")),
    make("h3", {}, "Drift of the traffic"),
    ...live(drift),
  ];
}

function live(drift) {
  if (!drift) return [make("p", {}, "The traffic to this version is not compared with its training data.")];
  const { verdict, window, false_alarm_rate: rate } = drift;
  const parts = [make("p", {}, make("strong", {}, verdict.grade), `: ${verdict.text}`)];
  if (rate) parts.push(make("p", { class: "small" }, `Without drift, one window in ${Math.round(1 / rate)} is over the limit.`));
  if (!window.layers.length) return parts;
  const most = Math.max(...window.layers.map(({ score }) => score), verdict.limit ?? 0);
  const rows = window.layers.map(({ name, score, worst_channels: worst }) => {
    const fill = make("span", { class: "fill" });
    fill.style.width = `${most > 0 ? (100 * score) / most : 0}%`;
    return [name, score.toFixed(4), make("span", { class: "track" }, fill), worst.map(({ channel }) => channel).join(", ")];
  });
  const caption = `The last ${window.images} pictures, the layers that differ most first`;
  return [...parts, table(caption, ["layer", "nats a channel", "", "channels that differ most"], rows)];
}

async function versions({ choose, model, version }) {
  const known = await ask("v2/repository/index", "{}");
  const rows = await Promise.all(known.map((entry) => versionRow(entry, choose, entry.name === model && entry.version === version)));
  const head = ["model", "version", "state", "test accuracy", "normalisations folded", "runs on", "bundle", ""];
  return [table("Versions that this server knows", head, rows)];
}

async function versionRow({ name, version, state, reason }, choose, current) {
  if (state !== "READY") return [name, version, reason ? `${state}: ${reason}` : state, "", "", "", "", ""];
  const { properties } = await ask(`v2/models/${encodeURIComponent(name)}/versions/${version}`);
  const accuracy = properties.metric_accuracy;
  const use = make("button", { type: "button", "aria-label": `Use ${name} version ${version}` }, "Use");
  use.addEventListener("click", () => choose(name, version));
  return [
    name,
    version,
    state,
    accuracy ? `${(100 * Number(accuracy)).toFixed(2)} %` : "not measured",
    properties.batchnorm_folded ?? "unknown",
    properties.provider.replace("ExecutionProvider", ""),
    make("code", {}, (properties.bundle_sha256 ?? "none").slice(0, 12)),
    current ? "in use" : use,
  ];
}
