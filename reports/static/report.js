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
  const arm = (place) => {
    const groups = [
      ...all(".stream:not([data-trace])", place).map((root) => ({ root, items: all(".tok", root), columns: 1 })),
      ...all(".grid", place).map((root) => ({ root, items: all("td", root), columns: all("tbody tr:first-child td", root).length })),
      ...all(".chart svg", place).map((root) => ({ root, items: all("[aria-roledescription][aria-label]", root).filter((el) => !/axis|legend|title|line mark|area mark/.test(el.getAttribute("aria-roledescription"))), columns: 1 })),
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
    for (const select of all("select.channel", place)) select.addEventListener("change", () => recolour(select));
  };

  // Colour channels of grids.
  const recolour = (select) => {
    const root = byId(select.dataset.for);
    root.dataset.channel = select.value;
    for (const el of all("[data-tip]", root)) {
      for (let i = 0; i < 9; i++) el.classList.remove(`h${i}`);
      if (select.value !== "none") el.classList.add(`h${el.dataset[select.value]}`);
    }
  };

  // Compressed blocks: what marks say and tooltips (put in place below), CSV and specifications (opened
  // when asked for), figures far down (made when a reader comes near).
  const inflate = async (section, kind) => {
    const held = document.querySelector(`script[data-of="${CSS.escape(section)}"][data-kind="${kind}"]`);
    if (!held || !self.DecompressionStream) return {};
    const bytes = Uint8Array.from(atob(held.textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };
  const opened = new Map();
  const block = (section, kind) => {
    const name = `${kind} ${section}`;
    if (!opened.has(name)) opened.set(name, inflate(section, kind));
    return opened.get(name);
  };
  const sectionOf = (figure) => figure.closest("main > section").id;

  const speak = (figure, { labels, names, rows }) => {
    const svg = figure.querySelector(".chart svg");
    if (svg && labels.length) {
      const parts = svg.querySelectorAll("*");
      svg.setAttribute("role", "group");
      for (const [at, kind, text] of labels) {
        parts[at].setAttribute("role", "graphics-symbol");
        parts[at].setAttribute("aria-roledescription", kind);
        parts[at].setAttribute("aria-label", text);
      }
    }
    all("[data-t]", figure).forEach((el, i) => names.forEach((name, k) => {
      if (rows[i][k] !== null) el.dataset[name] = rows[i][k];
    }));
    menu(figure);
    arm(figure);
  };

  const SVG = "http://www.w3.org/2000/svg";
  const make = (node, space) => {
    if (typeof node === "string") return document.createTextNode(node);
    const [tag, attributes, ...children] = node;
    const own = tag === "svg" ? SVG : space, el = document.createElementNS(own, tag);
    for (const [name, value] of Object.entries(attributes)) el.setAttribute(name, value);
    el.append(...children.map((child) => make(child, own)));
    return el;
  };
  const complete = async (figure) => {
    if (!figure.hasAttribute("data-later")) return;
    figure.removeAttribute("data-later");
    const section = sectionOf(figure), [later, spoken] = await Promise.all([block(section, "later"), block(section, "spoken")]);
    if (!later[figure.id]) return;
    figure.querySelector(":scope > .note").replaceWith(...later[figure.id].map((node) => make(node, document.documentElement.namespaceURI)));
    speak(figure, spoken[figure.id]);
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); complete(entry.target); }
  }, { rootMargin: "1200px" });

  // Closed tables stand in noscript elements, as text: a page of them would have ten thousand elements more. Opening
  // one makes it. The text is our template's: five elements, two attributes, markup in values escaped.
  const NAMED = { "&lt;": "<", "&gt;": ">", "&amp;": "&", "&#34;": '"', "&#39;": "'" };
  const plain = (text) => text.replace(/&(?:lt|gt|amp|#34|#39);/g, (name) => NAMED[name]);
  const rowsFrom = (text) => {
    const top = document.createDocumentFragment(), open = [top];
    for (const [, close, tag, attributes, words] of text.matchAll(/<(\/?)(table|thead|tbody|tr|th|td)\b([^>]*)>|([^<]+)/g)) {
      if (words !== undefined) open.at(-1).append(plain(words));
      else if (close) open.pop();
      else {
        const el = document.createElement(tag);
        for (const [, name, value] of attributes.matchAll(/(class|scope)="([a-z ]*)"/g)) el.setAttribute(name, value);
        open.at(-1).append(el);
        open.push(el);
      }
    }
    return top;
  };
  const makeTable = (details) => {
    const held = details.querySelector(":scope > .scroll > noscript");
    held?.replaceWith(...(held.children.length ? held.children : [rowsFrom(held.textContent)]));
  };
  const openTable = (details) => { makeTable(details); details.open = true; };
  document.addEventListener("toggle", (e) => { if (e.target.matches("details.table[open]")) makeTable(e.target); }, true);
  const wordsOf = (el) => {
    let text = el.textContent;
    for (const { textContent: held } of all("noscript", el)) text = text.replace(held, () => plain(held.replace(/<[^>]*>/g, " ")));
    return text.toLowerCase();
  };

  // A figure's menu: table, files, its place in the run file.
  const menu = (figure) => {
    const place = figure.querySelector(".menu"), table = figure.querySelector("details.table");
    if (!place || !self.DecompressionStream) return;
    const question = figure.querySelector("h3").textContent;
    const add = (text, data) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.setAttribute("aria-label", `${text}: ${question}`);
      Object.assign(button.dataset, data);
      place.insertBefore(button, place.lastElementChild);
    };
    if (table) { add("table", { table: "" }); add("CSV", { save: "csv", name: figure.id }); }
    if (figure.querySelector(".chart svg")) {
      add("SVG", { save: "svg", name: figure.id });
      add("Vega-Lite", { save: "json", name: figure.id });
    }
    if (figure.querySelector("figcaption code")?.textContent) add("copy path", { path: "" });
  };

  // Theme, kept in memory only.
  const themes = ["auto", "light", "dark"], button = byId("theme");
  const dress = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `◐ ${theme}`;
    button.setAttribute("aria-label", `colour theme: ${theme === "auto" ? "as the system" : theme}`);
  };
  button.addEventListener("click", () => dress(themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length]));

  // Search over sections and figures.
  const search = byId("search");
  const sift = () => {
    const wanted = search.value.trim().toLowerCase();
    for (const section of all("main > .section")) {
      const cards = all("figure, article.card, .viewer", section);
      const hits = cards.filter((card) => wordsOf(card).includes(wanted));
      const own = section.querySelector("h2").textContent.toLowerCase().includes(wanted);
      cards.forEach((card) => card.toggleAttribute("data-filtered", !!wanted && !own && !hits.includes(card)));
      const any = own || hits.length || (!cards.length && section.textContent.toLowerCase().includes(wanted));
      section.toggleAttribute("data-filtered", !!wanted && !any);
    }
  };
  search.addEventListener("input", async () => {
    sift();
    await Promise.all(all("figure[data-later]").map(complete));
    sift();
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
  // A picture that stands alone: the theme's colours in it, and a size.
  const alone = (svg) => {
    const style = getComputedStyle(document.documentElement), copy = svg.cloneNode(true);
    const [, , width, height] = svg.getAttribute("viewBox").split(" ");
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    copy.querySelectorAll("[tabindex]").forEach((el) => el.removeAttribute("tabindex"));
    const colour = (name) => style.getPropertyValue(name).trim();
    return new XMLSerializer().serializeToString(copy)
      .replace(/var\((--series-\d)\)/g, (_, name) => colour(name))
      .replaceAll("currentColor", colour("--ink"));
  };
  const copyText = (el) => {
    getSelection().selectAllChildren(el);
    navigator.clipboard?.writeText(el.textContent).then(() => { live.textContent = `copied ${el.textContent}`; }, () => {});
  };
  document.addEventListener("click", async (e) => {
    const { save: kind, name, table, path } = e.target.dataset ?? {};
    const figure = e.target.closest?.("figure");
    if (table !== undefined) {
      const details = figure.querySelector("details.table");
      if (details.open) details.open = false;
      else { openTable(details); details.querySelector(".scroll").focus(); }
    }
    if (path !== undefined) copyText(figure.querySelector("figcaption code"));
    if (!kind) return;
    if (kind === "svg") return save(`${name}.svg`, "image/svg+xml", alone(figure.querySelector(".chart svg")));
    const { csv, spec } = (await block(sectionOf(figure), "kept"))[name];
    if (kind === "csv") save(`${name}.csv`, "text/csv", csv);
    if (kind === "json") save(`${name}.vl.json`, "application/json", JSON.stringify(spec, null, 1));
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
  addEventListener("beforeprint", () => all("details.table").forEach((details) => {
    const held = details.querySelector("noscript"), { length } = held ? held.textContent.match(/<tr>/g) : details.querySelectorAll("tr");
    if (length <= 31) openTable(details); // with its head
  }));
  // A page that follows its run reads itself again, unless it is in use; theme, open tables and place
  // are kept with this entry of the history.
  const follow = byId("follow"), places = () => all("main > section, figure[id], article[id]");
  const resume = () => {
    const { theme, open = [], at, top } = history.state ?? {};
    if (!follow) return;
    if (theme) dress(theme);
    for (const id of open) all(":scope > details", byId(id) ?? tip).forEach(openTable);
    const pause = byId("pause"), press = (on) => pause.setAttribute("aria-pressed", String(on));
    pause.addEventListener("click", () => press(pause.getAttribute("aria-pressed") !== "true"));
    byId("drawn").textContent = `Drawn ${document.lastModified}.`;
    const back = () => { if (at && byId(at)) scrollBy({ top: byId(at).getBoundingClientRect().top - top, behavior: "instant" }); };
    back();
    requestAnimationFrame(() => requestAnimationFrame(back));
    setInterval(() => {
      const busy = pause.getAttribute("aria-pressed") === "true" || document.hidden || keys.open || !tip.hidden ||
        /INPUT|SELECT/.test(document.activeElement?.tagName) || !getSelection().isCollapsed;
      if (busy) return;
      const here = places().find((el) => el.getBoundingClientRect().bottom > 80);
      history.replaceState({
        theme: document.documentElement.dataset.theme,
        open: all("figure:has(> details[open]), article:has(> details[open])").map((el) => el.id),
        at: here?.id, top: here?.getBoundingClientRect().top,
      }, "");
      location.reload();
    }, 1000 * follow.dataset.every);
  };

  // Last: what marks say and tooltips, section after section; then the page is ready.
  const prepare = async () => {
    if (!self.DecompressionStream) byId("old").hidden = false;
    const sections = all("main > section");
    const told = await Promise.all(sections.map((section) => block(section.id, "spoken")));
    // In one go, so that the browser lays the page out once.
    for (const [i, section] of sections.entries()) {
      const spoken = told[i];
      for (const figure of all("figure:not([data-later])", section)) if (spoken[figure.id]) speak(figure, spoken[figure.id]);
      all(":scope > :not(.figures)", section).forEach(arm);
    }
    all("figure[data-later]").forEach((figure) => near.observe(figure));
    resume();
    document.body.dataset.ready = "true";
  };
  prepare();
})();
