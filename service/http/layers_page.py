"""The page at `/batchnorm/{model}`: every layer's statistics, where they went in the fold, and where the traffic is.

Made here in full, so that it can be read without a script; the script only brings the live part up to date.
"""

from html import escape
from typing import Any

import numpy as np

from bundle.statistics import LayerStatistics
from service.http.plots import bars, history
from service.model import Model
from service.watch.report import drift_report

_COLUMNS = (
    ("γ, the scale", "gamma", ""),
    ("β, the centre", "beta", ""),
    ("μ, the moving mean", "mean", "live_mean"),
    ("σ², the moving variance", "variance", "live_variance"),
)


def render(model: Model) -> str:
    """The page's HTML, of a model that has a report."""
    drift = drift_report(model.watch, arrays=True) if model.watch else None
    live = {layer["name"]: layer for layer in drift["window"]["layers"]} if drift else {}
    assert model.batchnorm is not None
    title = escape(f"Batch normalisation of {model.name}, version {model.version}")
    layers = "".join(_layer(layer, live.get(name)) for name, layer in model.batchnorm.layers.items())
    address = f"/v2/models/{model.name}/versions/{model.version}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="/page/icon.svg"><link rel="stylesheet" href="/page/batchnorm.css">
<script type="module" src="/page/batchnorm.js"></script></head>
<body data-drift="{escape(address)}/drift?arrays=true">
<header><h1>{title}</h1>
<p>The layers are folded into the weights; what they learned of the training data is still here, beside what the
traffic looks like now. One bar a channel. <span class="dot" aria-hidden="true"></span> A dot is the live value.</p>
</header>
<main>
<section aria-labelledby="drift"><h2 id="drift">Drift</h2>{_drift(model, drift)}</section>
<section aria-labelledby="fold"><h2 id="fold">Where each layer went</h2>{_fold(model)}</section>
{layers or "<section><p>This model has no batch normalisation.</p></section>"}
</main>
<footer><p>As data: <a href="{escape(address)}/batchnorm?arrays=true">JSON</a>,
<a href="{escape(address)}/batchnorm.safetensors">safetensors</a>; bundle <code>{escape(model.digest or "")}</code></p>
</footer>
</body></html>
"""


def _drift(model: Model, drift: dict[str, Any] | None) -> str:
    if drift is None:
        return f"<p>The traffic is not compared with the training data: {escape(model.unwatched)}.</p>"
    verdict, rows = drift["verdict"], drift["history"]
    scores = {layer["name"]: layer["score"] for layer in drift["window"]["layers"]}
    names = model.watch.reference.layout.layers if model.watch else ()
    cells = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td data-score="{escape(name)}">{_number(scores.get(name))}</td></tr>'
        for name in names
    )
    return f"""
<p class="verdict" data-grade="{escape(verdict["grade"])}" role="status">{escape(verdict["text"])}</p>
<p class="small" data-summary>{_summary(drift)}</p>
<div class="beside"><div><table><caption>Score of each layer, in nats a channel</caption>
<thead><tr><th scope="col">layer</th><th scope="col">score</th></tr></thead><tbody>{cells}</tbody></table></div>
<figure data-history>{
        history(
            "Scores of the last windows, and their limit",
            [row["score"] for row in rows],
            [row["limit"] for row in rows],
        )
    }
<figcaption>The last windows, the oldest on the left; dashed: the limit that chance rarely exceeds. Logarithmic.
</figcaption></figure></div>"""


def _summary(drift: dict[str, Any]) -> str:
    verdict, total = drift["verdict"], drift["since_reset"]
    said = [f"{total['images']} pictures looked at, {total['windows']} windows judged since {total['since']}"]
    if verdict["score"] is not None:
        said.append(f"score {_number(verdict['score'])}")
    if verdict["limit"] is not None:
        said.append(f"limit {_number(verdict['limit'])}")
    return escape("; ".join(said) + ".")


def _fold(model: Model) -> str:
    assert model.batchnorm is not None
    rows = "".join(_arrow(layer) for layer in model.batchnorm.layers.values())
    return f'<ol class="fold">{rows}</ol>'


def _arrow(layer: LayerStatistics) -> str:
    record = layer.record
    backward = any(rule.startswith("backward") for rule in record.rules)
    into = ", ".join(record.into) or ", ".join(record.residual) or "the graph, as it is"
    way = "M46 8H4M11 2L4 8L11 14" if backward else "M2 8H44M37 2L44 8L37 14"
    arrow = f'<svg class="arrow" viewBox="0 0 48 16" aria-hidden="true"><path d="{way}"/></svg>'
    return (
        f"<li><b>{escape(record.name)}</b> <small>{record.channels} channels</small>{arrow}"
        f'<span class="unseen">{"kept as" if record.status == "kept" else "folded into"}</span> <b>{escape(into)}</b> '
        f"<small>{escape('; '.join(record.rules))}</small></li>"
    )


def _layer(layer: LayerStatistics, live: dict[str, Any] | None) -> str:
    name = layer.record.name
    plots = "".join(
        f"<figure>{bars(f'{title} of {name}', getattr(layer, key), _dots(live, live_key), key=f'{name}/{live_key}')}"
        f"<figcaption>{title} <small>{_range(getattr(layer, key))}</small></figcaption></figure>"
        for title, key, live_key in _COLUMNS
    )
    dead = int(np.sum(layer.variance < 1e-8))
    note = f" {dead} of them never changed in training." if dead else ""
    return (
        f'<section aria-labelledby="layer-{escape(name)}"><h2 id="layer-{escape(name)}">{escape(name)}</h2>'
        f"<p class=small>{layer.record.channels} channels, ε {layer.record.epsilon:g}, momentum "
        f'{layer.record.momentum:g}.{note}</p><div class="plots">{plots}</div></section>'
    )


def _dots(live: dict[str, Any] | None, key: str) -> Any:
    if not key:
        return None
    return np.asarray(live[key], float) if live else np.array([])


def _range(values: Any) -> str:
    return f"{values.min():.3g} … {values.max():.3g}"


def _number(value: float | None) -> str:
    return "none yet" if value is None else f"{value:.3g}"
