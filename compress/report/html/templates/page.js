"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  for (const control of all("[data-filters], [data-choice], [data-copy], .compare input, #theme")) control.hidden = false;

  // Light and dark: the system's choice until the button is pressed; remembered where the browser lets a page.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => { try { return localStorage.getItem("krimp-theme"); } catch { return null; } };
  const keep = (theme) => { try { localStorage.setItem("krimp-theme", theme); } catch { /* a file may not */ } };
  if (kept() === "light" || kept() === "dark") root.dataset.theme = kept();
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    keep(root.dataset.theme);
  });

  for (const button of all("[data-copy]")) {
    button.addEventListener("click", async () => {
      const code = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  for (const slider of all(".compare input")) {
    const move = () => slider.parentElement.style.setProperty("--at", `${slider.value}%`);
    slider.addEventListener("input", move);
    move();
  }

  // Tables: a button in each head; numbers first by the largest, names from A on; what is unknown stays last.
  for (const table of all("table[data-sortable]")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const keys = all("tbody tr", table).map((row) => row.children[column].dataset.key ?? "");
        const numeric = keys.every((key) => key === "" || !Number.isNaN(Number(key)));
        const was = head.getAttribute("aria-sort");
        const down = was === "descending" ? false : was === "ascending" ? true : numeric;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const compare = (a, b) => {
          const [x, y] = [a, b].map((row) => row.children[column].dataset.key ?? "");
          if (x === "" || y === "") return (x === "") - (y === "");
          const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
          return down ? -order : order;
        };
        table.tBodies[0].append(...all("tbody tr", table).sort(compare));
      });
    });
  }

  const filters = document.querySelector("[data-filters]");
  if (filters) {
    const gallery = document.querySelector("[data-gallery]");
    const rows = all("#table-images tbody tr");
    const value = (name) => filters.elements[name];
    const lost = (row) => Number(row.children[4].dataset.key);
    const apply = () => {
      const text = value("text").value.trim().toLowerCase();
      const only = value("only")?.checked ?? false;
      const by = value("by")?.value;
      const pictures = gallery ? all(".picture", gallery) : [];
      for (const one of pictures) {
        one.hidden = !one.dataset.name.toLowerCase().includes(text) || (only && !(Number(one.dataset.lost) > 0));
      }
      for (const row of rows) {
        row.hidden = !row.cells[0].textContent.toLowerCase().includes(text) || (only && !(lost(row) > 0));
      }
      if (by && gallery) {
        const order = by === "name"
          ? (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true })
          : (a, b) => Number(b.dataset[by] ?? 0) - Number(a.dataset[by] ?? 0);
        gallery.append(...pictures.sort(order));
      }
      document.body.classList.toggle("nomarks", value("marks")?.checked === false);
      const shown = (things) => `${things.filter((one) => !one.hidden).length} of ${things.length}`;
      const parts = [];
      if (pictures.length) parts.push(`${shown(pictures)} pictures`);
      if (rows.length) parts.push(`${shown(rows)} images in the table`);
      filters.querySelector("output").textContent = parts.join(", ");
    };
    filters.addEventListener("input", apply);
    filters.addEventListener("submit", (event) => event.preventDefault());
    apply();
  }

  // The section in view is marked in the navigation.
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const section of all("main > section")) watcher.observe(section);

  // Charts: each is drawn when it comes near the window; until then, and without this script, its SVG stands there.
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const views = new Map();
  const draw = async (place) => {
    const name = place.dataset.chart;
    if (views.has(name)) return;
    views.set(name, null);
    const fresh = document.createElement("div");
    fresh.style.width = `${place.clientWidth}px`;
    fresh.setAttribute("aria-hidden", "true"); // the place around it has the description
    const before = place.innerHTML;
    place.replaceChildren(fresh);
    place.classList.add("live");
    try {
      const tooltip = { disableDefaultStyle: true };
      const result = await vegaEmbed(fresh, specs[name], { renderer: "svg", actions: false, ast: true, defaultStyle: false, tooltip });
      fresh.style.width = "100%";
      views.set(name, result.view);
      const choice = document.querySelector(`[data-choice="${name}"]`);
      choice?.addEventListener("change", (event) => {
        result.view.signal(choice.dataset.parameter, event.target.value).runAsync();
      });
      place.dataset.drawn = "true";
    } catch (error) {
      place.innerHTML = before;
      place.classList.remove("live");
      console.error(error);
    }
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "400px" });
  for (const place of all("[data-chart]")) near.observe(place);
})();
