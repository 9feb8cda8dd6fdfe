"use strict";
// The theme before anything is drawn; the rest when the page is there.
(() => {
  const root = document.documentElement;
  const store = {
    get() { try { return localStorage.getItem("theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("theme", value); } catch { /* private window: forgotten */ } },
  };
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  if (["dark", "light"].includes(store.get())) root.dataset.theme = store.get();

  addEventListener("DOMContentLoaded", () => {
    theme();
    search();
    scrollable();
    open();
    addEventListener("resize", scrollable);
    addEventListener("hashchange", open);
    document.addEventListener("toggle", scrollable, true);
  });
  // what is folded away is printed too
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((d) => { d.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((d) => { d.open = false; }));

  function theme() {
    const button = document.getElementById("theme");
    const show = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
    button.hidden = false;
    button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; store.set(root.dataset.theme); show(); });
    show();
  }

  // a link to something inside a folded part opens it; the contents are folded on a narrow screen
  function open() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    target?.closest("details")?.setAttribute("open", "");
    const toc = document.querySelector(".toc details");
    if (toc && innerWidth < 1100) toc.open = false;
  }

  // what scrolls sideways can be reached by keyboard
  function scrollable() {
    for (const box of document.querySelectorAll(".eq, .scroll, pre, .display")) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0; else box.removeAttribute("tabindex");
    }
  }

  function search() {
    const input = document.getElementById("search");
    if (!input) return;
    const rows = [...document.querySelectorAll("#entries tbody tr:not(.group)")];
    const groups = [...document.querySelectorAll("#entries tr.group")];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const found = document.getElementById("found");
    const filter = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let n = 0;
      rows.forEach((row, k) => { row.hidden = !words.every((word) => texts[k].includes(word)); n += !row.hidden; });
      groups.forEach((row) => { row.hidden = words.length > 0; });
      found.textContent = words.length ? `${n} of ${rows.length}` : "";
    };
    input.value = new URLSearchParams(location.search).get("q") ?? input.value;
    input.addEventListener("input", filter);
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") rows.find((row) => !row.hidden)?.querySelector("a").click();
    });
    addEventListener("keydown", (event) => {
      if (event.key === "/" && document.activeElement !== input) { event.preventDefault(); input.focus(); }
    });
    filter();
  }
})();
