/** Keeps the live part of the page up to date; everything else is in the page already. */

const EVERY = 5000; // milliseconds
const WIDTH = 240, HEIGHT = 72, MARGIN = 4; // as in service/http/plots.py

const number = (value) => (value === null || value === undefined ? "none yet" : Number(value.toPrecision(3)).toString());

function dots(values, low, high) {
  const step = (WIDTH - 2 * MARGIN) / values.length;
  const height = (value) => HEIGHT - MARGIN - ((Math.min(Math.max(value, low), high) - low) / (high - low)) * (HEIGHT - 2 * MARGIN);
  return values
    .map((value, i) => (value === null ? "" : `M${(MARGIN + (i + 0.5) * step).toFixed(1)} ${height(value).toFixed(1)}h0`))
    .join("");
}

function history(figure, windows) {
  const known = windows.flatMap((one) => [one.score, one.limit]).filter((value) => value);
  if (!known.length) return;
  const low = Math.log(Math.min(...known));
  const high = Math.max(Math.log(Math.max(...known)), low + 1e-6);
  const place = (i) => (windows.length > 1 ? MARGIN + (i * (WIDTH - 2 * MARGIN)) / (windows.length - 1) : WIDTH / 2);
  const height = (value) => HEIGHT - MARGIN - ((Math.log(value) - low) / (high - low)) * (HEIGHT - 2 * MARGIN);
  const line = (key) => {
    const ends = windows.map((one, i) => [place(i), one[key]]).filter(([, value]) => value);
    const text = ends.map(([x, value]) => `${x.toFixed(1)} ${height(value).toFixed(1)}`).join("L");
    return text && `M${text}h0`;
  };
  const drawing = figure.querySelector("svg");
  if (!drawing) return location.reload(); // the first window: the server draws it
  drawing.querySelector(".score").setAttribute("d", line("score"));
  drawing.querySelector(".limit").setAttribute("d", line("limit"));
}

function show(drift) {
  const verdict = document.querySelector(".verdict");
  if (verdict.textContent !== drift.verdict.text) verdict.textContent = drift.verdict.text;
  verdict.dataset.grade = drift.verdict.grade;
  const { images, windows, since } = drift.since_reset;
  const said = [`${images} pictures looked at, ${windows} windows judged since ${since}`];
  if (drift.verdict.score !== null) said.push(`score ${number(drift.verdict.score)}`);
  if (drift.verdict.limit !== null) said.push(`limit ${number(drift.verdict.limit)}`);
  document.querySelector("[data-summary]").textContent = `${said.join("; ")}.`;
  for (const layer of drift.window.layers) {
    for (const cell of document.querySelectorAll("[data-score]"))
      if (cell.dataset.score === layer.name) cell.textContent = number(layer.score);
    for (const plot of document.querySelectorAll("svg.bars"))
      for (const key of ["live_mean", "live_variance"])
        if (plot.dataset.key === `${layer.name}/${key}`)
          plot.querySelector(".live").setAttribute("d", dots(layer[key], Number(plot.dataset.low), Number(plot.dataset.high)));
  }
  history(document.querySelector("[data-history]"), drift.history);
}

async function refresh() {
  try {
    const answer = await fetch(document.body.dataset.drift);
    if (answer.ok && !document.hidden) show(await answer.json());
  } finally {
    setTimeout(refresh, EVERY);
  }
}

if (document.querySelector(".verdict")) setTimeout(refresh, EVERY);
