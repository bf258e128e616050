// Building the page out of text: nothing that came from the server is ever read as HTML.

/** An element with attributes and children; a child is an element or a text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A table with a caption. A cell is a text, an element, or a number, which stands to the right. */
export function table(caption, head, rows) {
  const cell = (content) => {
    if (typeof content === "number") return make("td", { class: "number" }, String(content));
    return make("td", {}, content ?? "");
  };
  const body = rows.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, first), ...rest.map(cell)));
  const names = head.map((name) => (name ? make("th", { scope: "col" }, name) : make("td")));
  const parts = [make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...body)];
  if (caption) parts.unshift(make("caption", {}, caption));
  return make("table", {}, ...parts);
}

/** The sign and the name of a label such as "す su"; the name alone where there is no sign. */
export function divide(label) {
  const match = /^([^\x00-\x7f]\S*)\s+(.+)$/.exec(label);
  return match ? { sign: match[1], name: match[2] } : { sign: "", name: label };
}
