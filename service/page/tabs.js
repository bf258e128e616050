// Tabs after the WAI-ARIA pattern: arrows move between them, the panels are filled when they are first looked at.

/** Make a tab list work; `fill(name, panel)` is called for a panel that is to be shown and is not filled. */
export function tabs(list, fill) {
  const all = [...list.querySelectorAll('[role="tab"]')];
  const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));
  let current;

  function select(tab, focus) {
    current = tab;
    for (const one of all) {
      const chosen = one === tab;
      one.setAttribute("aria-selected", String(chosen));
      one.tabIndex = chosen ? 0 : -1;
      panel(one).hidden = !chosen;
    }
    if (focus) tab.focus();
    if (!panel(tab).dataset.filled) {
      panel(tab).dataset.filled = "yes";
      fill(panel(tab).id, panel(tab));
    }
  }

  list.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) select(tab, true);
  });
  list.addEventListener("keydown", (event) => {
    const place = all.indexOf(event.target);
    const next = { ArrowRight: place + 1, ArrowLeft: place - 1 + all.length, Home: 0, End: all.length - 1 }[event.key];
    if (place < 0 || next === undefined) return;
    event.preventDefault();
    select(all[next % all.length], true);
  });
  select(all.find((tab) => `#${panel(tab).id}` === location.hash) ?? all[0], false);

  /** Empty all panels, since they are of another model now. */
  return function again() {
    for (const tab of all) delete panel(tab).dataset.filled;
    select(current, false);
  };
}
