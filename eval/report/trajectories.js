// Filters and sorts the example trajectories. Without it, all are there in the order of the page.
(() => {
  const list = document.getElementById("trajectories");
  const bar = document.getElementById("filters");
  if (!list || !bar) return;
  const rows = [...list.children];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const place = new Map(rows.map((row, i) => [row, i]));
  const fields = [...bar.querySelectorAll("select, input")];
  const value = Object.fromEntries(fields.map((field) => [field.name, () => field.value]));
  const number = (row, name) => Number(row.dataset[name]);
  const orders = {
    page: () => 0,
    problem: (a, b) => a.dataset.variant.localeCompare(b.dataset.variant) || number(a, "problem") - number(b, "problem"),
    solved: (a, b) => number(b, "successes") - number(a, "successes"),
    hardest: (a, b) => number(a, "successes") - number(b, "successes"),
    turns: (a, b) => number(b, "turns") - number(a, "turns"),
  };
  const apply = () => {
    const wanted = value.text().toLowerCase();
    let shown = 0;
    rows.forEach((row, i) => {
      const fits = ["run", "variant", "outcome", "stratum"].every((name) => !value[name]() || row.dataset[name] === value[name]());
      row.hidden = !(fits && (!wanted || texts[i].includes(wanted)));
      shown += row.hidden ? 0 : 1;
    });
    const order = orders[value.sort()];
    list.append(...[...rows].sort((a, b) => order(a, b) || place.get(a) - place.get(b)));
    document.getElementById("shown").textContent = `${shown} of ${rows.length} shown`;
  };
  fields.forEach((field) => field.addEventListener("input", apply));
  document.getElementById("unfold").addEventListener("click", (event) => {
    const open = event.target.getAttribute("aria-pressed") !== "true";
    event.target.setAttribute("aria-pressed", String(open));
    rows.forEach((row) => { if (!row.hidden) row.open = open; });
  });
  bar.hidden = false;
  apply();
})();
