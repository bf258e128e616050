// The little Markdown that model cards are written in: headings, tables, lists, paragraphs, code, bold, links, pictures.

import { make } from "./dom.js";

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|(!?)\[([^\]]*)\]\(([^)\s]+)\)/g;

/** The elements of a Markdown text; `pictures` has the data of those that it names. */
export function markdown(text, pictures = {}) {
  const lines = text.replace(/^---\n[\s\S]*?\n---\n/, "").split("\n");
  const elements = [];
  for (let i = 0; i < lines.length; ) {
    const block = [];
    const kind = kindOf(lines[i]);
    while (i < lines.length && kindOf(lines[i]) === kind && (kind !== "heading" || !block.length)) block.push(lines[i++]);
    if (kind === "heading") {
      const [, marks, title] = /^(#+) +(.*)$/.exec(block[0]);
      elements.push(make(`h${Math.min(6, marks.length + 1)}`, {}, ...inline(title, pictures)));
    } else if (kind === "table") elements.push(tabular(block, pictures));
    else if (kind === "list") {
      const items = block.map((line) => make("li", {}, ...inline(line.replace(/^[-*] +/, ""), pictures)));
      elements.push(make("ul", {}, ...items));
    } else if (kind === "text") elements.push(make("p", {}, ...inline(block.join(" "), pictures)));
  }
  return elements;
}

function kindOf(line) {
  if (!line.trim()) return "blank";
  if (/^#+ /.test(line)) return "heading";
  if (line.startsWith("|")) return "table";
  return /^[-*] /.test(line) ? "list" : "text";
}

function tabular(lines, pictures) {
  const cells = (line) => line.replace(/^\||\|$/g, "").split("|").map((cell) => inline(cell.trim(), pictures));
  const [head, , ...rows] = lines.map(cells);
  const row = (tag, content) => make("tr", {}, ...content.map((cell) => make(tag, {}, ...cell)));
  const titles = head.some((cell) => cell.length);
  const titled = head.map((cell) => (cell.length ? make("th", { scope: "col" }, ...cell) : make("td")));
  const parts = [make("tbody", {}, ...rows.map((content) => row("td", content)))];
  if (titles) parts.unshift(make("thead", {}, make("tr", {}, ...titled)));
  return make("table", {}, ...parts);
}

function inline(text, pictures) {
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, code, bold, picture, name, target] = match;
    if (match.index > from) parts.push(text.slice(from, match.index));
    from = match.index + whole.length;
    if (code) parts.push(make("code", {}, code));
    else if (bold) parts.push(make("strong", {}, bold));
    else if (picture) parts.push(pictures[target] ? make("img", { src: pictures[target], alt: name }) : name);
    else parts.push(/^https?:/.test(target) ? make("a", { href: target, rel: "noreferrer" }, name) : name);
  }
  if (from < text.length) parts.push(text.slice(from));
  return parts;
}
