// Single out a coder or a series, and sort the table. The page is complete without this.
(() => {
  const page = document.body, told = document.getElementById("told");
  const rows = [...document.querySelectorAll("tr.coder")];
  const words = rows.map(r => [r.dataset.n, r.dataset.t]);
  let kept = null;

  const show = key => {
    document.querySelectorAll(".is").forEach(e => e.classList.remove("is"));
    page.classList.toggle("single", key !== null);
    told.hidden = !key || key[0] !== "c";
    if (!key) return;
    document.querySelectorAll(`[data-${key[0]}="${key.slice(1)}"]`).forEach(e => e.classList.add("is"));
    if (key[0] === "c") {
      const [name, text] = words[+key.slice(1)];
      told.textContent = name + text;
    }
  };
  const keyOf = e => {
    const found = e.target.closest && e.target.closest("[data-c], .legend [data-s]");
    if (!found) return null;
    return found.dataset.c !== undefined ? "c" + found.dataset.c : "s" + found.dataset.s;
  };

  // Lines are thin: a wide one that is not seen lies under each.
  document.querySelectorAll(".ln").forEach(line => {
    const wide = line.cloneNode();
    wide.setAttribute("class", "hit");
    line.before(wide);
  });
  // The words at the bottom say more than the browser's.
  document.querySelectorAll(".pt > title").forEach(t => t.remove());

  page.addEventListener("mouseover", e => show(keyOf(e) || kept));
  page.addEventListener("focusin", e => show(keyOf(e) || kept));
  page.addEventListener("click", e => {
    if (e.target.closest(".sort")) return;
    const key = keyOf(e);
    kept = key === kept ? null : key;
    show(kept);
  });
  page.addEventListener("keydown", e => {
    if (e.key === "Escape") show(kept = null);
  });

  const body = document.querySelector("tbody");
  document.querySelectorAll(".sort th").forEach((head, i) => {
    head.tabIndex = 0;
    const sort = () => {
      const first = head.classList.contains("num") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      document.querySelectorAll(".sort th").forEach(h => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const cell = r => r.children[i];
      rows.sort((a, b) => {
        const x = cell(a).dataset.v, y = cell(b).dataset.v;
        if (x !== undefined && y !== undefined) return sign * (x - y);
        if (x !== undefined || y !== undefined) return x !== undefined ? -1 : 1; // n/a last
        return sign * cell(a).textContent.localeCompare(cell(b).textContent, undefined, {numeric: true});
      });
      body.append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", e => { if (e.key === "Enter") sort(); });
  });
})();
