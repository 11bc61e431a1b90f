"use strict";
// Interaction over what is in the page already: tooltips on hover and focus, arrow keys inside figures,
// colour channels, theme, search, downloads. Text only ever goes in through textContent and attributes.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const tip = byId("tip"), live = byId("live");

  // Tooltips: HTML elements carry data-tip, chart marks an aria-label.
  const labelOf = (el) => el.dataset?.tip || (el.closest("svg") ? el.getAttribute("aria-label") : null);
  const target = (node) => {
    if (!(node instanceof Element)) return null;
    const found = node.closest("[data-tip], svg [aria-roledescription]:not([aria-roledescription='axis'])");
    return found && labelOf(found) ? found : null;
  };
  const show = (el) => {
    tip.textContent = labelOf(el);
    tip.hidden = false;
    const box = el.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - size.width / 2), innerWidth - size.width - 8);
    const above = box.top - size.height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 56 ? above : box.bottom + 8}px`;
  };
  const hide = () => { tip.hidden = true; };
  document.addEventListener("pointerover", (e) => { const el = target(e.target); el ? show(el) : hide(); });
  document.addEventListener("focusin", (e) => {
    const el = target(e.target);
    if (!el) return hide();
    show(el);
    live.textContent = labelOf(el);
  });
  document.addEventListener("focusout", hide);
  addEventListener("scroll", hide, { passive: true });

  // One tab stop per stream, grid and chart; arrows move inside.
  const groups = [
    ...all(".stream").map((root) => ({ root, items: all(".tok", root), columns: 1 })),
    ...all(".grid").map((root) => ({ root, items: all("td", root), columns: all("tbody tr:first-child td", root).length })),
    ...all(".chart svg").map((root) => ({ root, items: all("[aria-roledescription][aria-label]", root).filter((el) => !/axis|legend|title|line mark|area mark/.test(el.getAttribute("aria-roledescription"))), columns: 1 })),
  ].filter((group) => group.items.length);
  for (const { root, items, columns } of groups) {
    items.forEach((el, i) => el.setAttribute("tabindex", i ? "-1" : "0"));
    root.addEventListener("keydown", (e) => {
      const at = items.indexOf(document.activeElement);
      if (at < 0) return;
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at, End: items.length - 1 - at }[e.key];
      if (step === undefined) return;
      e.preventDefault();
      const next = items[Math.min(Math.max(at + step, 0), items.length - 1)];
      items[at].setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
      next.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
  }

  // A token opens the draft of its step.
  const openDraft = (el) => {
    const tok = el.closest && el.closest(".stream .tok");
    if (!tok) return;
    for (const draft of all(".drafts details")) {
      if (draft.dataset.of === tok.closest(".stream").id) draft.open = draft.dataset.step === tok.dataset.step;
    }
  };
  document.addEventListener("click", (e) => openDraft(e.target));
  document.addEventListener("keydown", (e) => { if (e.key === "Enter") openDraft(e.target); });

  // Colour channels of streams and grids.
  for (const select of all("select.channel")) {
    select.addEventListener("change", () => {
      const root = byId(select.dataset.for);
      root.dataset.channel = select.value;
      const letter = root.classList.contains("grid") ? "h" : "q";
      for (const el of all("[data-tip]", root)) {
        for (let i = 0; i < 9; i++) el.classList.remove(letter + i);
        if (select.value !== "none") el.classList.add(letter + el.dataset[select.value]);
      }
    });
  }

  // Theme, kept in memory only.
  const themes = ["auto", "light", "dark"], button = byId("theme");
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const next = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
    root.dataset.theme = next;
    button.textContent = `◐ ${next}`;
    button.setAttribute("aria-label", `colour theme: ${next === "auto" ? "as the system" : next}`);
  });

  // Search over sections and figures.
  const search = byId("search");
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    for (const section of all("main > .section")) {
      const cards = all("figure, article.card", section);
      const hits = cards.filter((card) => card.textContent.toLowerCase().includes(wanted));
      const own = section.querySelector("h2").textContent.toLowerCase().includes(wanted);
      cards.forEach((card) => card.toggleAttribute("data-filtered", !!wanted && !own && !hits.includes(card)));
      const any = own || hits.length || (!cards.length && section.textContent.toLowerCase().includes(wanted));
      section.toggleAttribute("data-filtered", !!wanted && !any);
    }
  });

  const keys = byId("keys"), help = byId("help");
  const openKeys = () => { keys.showModal(); help.setAttribute("aria-expanded", "true"); };
  keys.addEventListener("close", () => help.setAttribute("aria-expanded", "false"));
  help.addEventListener("click", openKeys);
  document.addEventListener("keydown", (e) => {
    if (e.key === "Escape") hide();
    if (/INPUT|SELECT|TEXTAREA/.test(document.activeElement?.tagName) || e.ctrlKey || e.metaKey) return;
    if (e.key === "/") { e.preventDefault(); search.focus(); }
    if (e.key === "?") openKeys();
  });

  // Downloads.
  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  document.addEventListener("click", (e) => {
    const kind = e.target.dataset?.save, name = e.target.dataset?.name;
    if (!kind) return;
    const block = (attribute) => JSON.parse(document.querySelector(`script[${attribute}="${CSS.escape(name)}"]`).textContent);
    if (kind === "csv") save(`${name}.csv`, "text/csv", block("data-csv"));
    if (kind === "json") save(`${name}.vl.json`, "application/json", JSON.stringify(block("data-spec"), null, 1));
    if (kind === "svg") save(`${name}.svg`, "image/svg+xml", new XMLSerializer().serializeToString(byId(name).querySelector(".chart svg")));
  });

  // Where we are, in the navigation.
  const links = new Map(all("nav a").map((a) => [a.getAttribute("href").slice(1), a]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((a) => a.removeAttribute("aria-current"));
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  all("main > section").forEach((section) => watch.observe(section));

  // Printed tables: those a page can hold.
  addEventListener("beforeprint", () => all("details").forEach((d) => {
    if (d.querySelectorAll("tbody tr").length <= 30) d.open = true;
  }));
  document.body.dataset.ready = "true";
})();
