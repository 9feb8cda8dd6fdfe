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
    finder();
    whereabouts();
    for (const button of document.querySelectorAll(".print")) { button.hidden = false; button.addEventListener("click", () => print()); }
    copying();
    scrollable();
    open();
    addEventListener("resize", soon);
    addEventListener("hashchange", open);
    document.addEventListener("toggle", soon, true);
  });
  // what is folded away is printed too, but for the code and what was measured
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open], .behind, .reckoned, .behind *)")];
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

  // what scrolls sideways can be reached by keyboard; all is measured before anything is changed
  function scrollable() {
    const boxes = [...document.querySelectorAll(".eq, .scroll, pre, .display")];
    const wide = boxes.map((box) => box.scrollWidth > box.clientWidth + 1);
    boxes.forEach((box, k) => { if (wide[k]) box.tabIndex = 0; else box.removeAttribute("tabindex"); });
  }

  // once a frame, however many parts are unfolded in it
  let planned = 0;
  const soon = () => { planned ||= requestAnimationFrame(() => { planned = 0; scrollable(); }); };

  // The whole book. Its sections are a script, loaded when the box is first used: a page from disk may load no data.
  // Each word of the query, or one that means the same, counts where a word of the book begins with it: the more, the
  // fewer sections have it. A word that none has is taken for a slip of a letter, and does not count if it is not.
  const SAME = [
    ["gradient", "derivative", "derivation", "backward", "back", "bwd", "w.r.t"], ["slope", "derivative"], ["jacobian", "derivative", "local gradient"],
    ["differentiate", "derivative"], ["rotate", "turn", "flip"], ["convolution", "correlation", "conv2d", "cnn"],
    ["backprop", "backpropagation", "chain rule", "backward"], ["norm", "normalis"], ["crossentropy", "cross-entropy"],
    ["transformer", "attention", "gpt"], ["layernorm", "layer norm"], ["batchnorm", "batch norm"], ["mean squared error", "mse"],
    ["error", "mistake", "wrong"], ["misprint", "errata", "erratum"], ["kernel", "filter"], ["multiplication", "product", "multiply", "matmul"],
    ["elementwise", "entry by entry"], ["teacher", "teach", "handout"], ["positional", "position", "rotary"], ["stable", "overflow", "cancellation"],
    ["vectorised", "batch", "minibatch"], ["flash", "streaming", "chunk"], ["linear layer", "fully connected", "dense"], ["minibatch", "mini-batch"],
    ["residual", "skip connection"], ["logits", "scores"], ["bptt", "rnn", "recurrent"], ["embedding", "lookup"], ["worksheet", "handout"],
    ["float16", "bfloat16", "half precision"], ["finite difference", "numerical gradient"], ["neuron", "unit"], ["sharing", "shared", "tied", "same weights"],
  ];
  const SMALL = /^(the|of|a|an|is|are|in|to|for|with|why|does|do|how|what|which|i|my|we|it|and|or|can|pass)$/;
  const plain = (text) => text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase().replace(/iz(?=[aei])/g, "is");
  const stem = (word) => word.length > 5 ? word.replace(/((?<=.{5})ation|(?<=.{4})ion|ing|ed|es|s|al|e)$/, "") : word;
  const begins = (word) => new RegExp(`(?<![a-z0-9])${word.replace(/[^a-z0-9]/g, "\\$&")}${word.length < 3 ? "(?![a-z0-9])" : ""}`, "g");

  function meant(word) {
    const own = stem(word), others = SAME.filter((group) => group.some((w) => w.startsWith(own))).flat();
    return [[begins(own), 1], ...others.filter((w) => !w.startsWith(own)).map((w) => [begins(stem(w)), 0.9])];
  }

  // one letter wrong, missing or too many, or two neighbours swapped
  function slip(a, b) {
    let start = 0, end = 0;
    while (start < Math.min(a.length, b.length) && a[start] === b[start]) start += 1;
    while (end < Math.min(a.length, b.length) - start && a.at(-1 - end) === b.at(-1 - end)) end += 1;
    const [x, y] = [a, b].map((word) => word.slice(start, word.length - end));
    return Math.max(x.length, y.length) < 2 || (x.length === 2 && y === x[1] + x[0]);
  }

  // how well a section answers each term, and how much the term says; a long section has every word, so its text counts less
  function weighed(sections, term) {
    const each = sections.map((section) => Math.max(...term.map(([word, weight]) => {
      const inText = (section.text.match(word) ?? []).length, inTitle = section.title.replace(/^[a-e]-e?\d+ /, "").search(word);
      return weight * ((inTitle < 0 ? 0 : inTitle > 20 ? 6 : 8) + (inText && 1 + Math.min(inText, 4) / 2) * Math.min(1, 3000 / section.text.length));
    })));
    const having = each.filter(Boolean).length;
    return { term, each, says: having ? 1 + Math.log(sections.length / having) / 3 : 0 };
  }

  function answers(sections, words, query) {
    const asked = [];
    const rest = SAME.flat().filter((w) => w.includes(" ")).reduce((left, phrase) =>
      left.replace(new RegExp(`\\b${phrase}[a-z]*`), () => { asked.push(phrase); return " "; }), plain(query));
    asked.push(...rest.split(/[\s,?]+/).filter((word) => word && !SMALL.test(word)));
    const terms = asked.map((word) => {
      const found = weighed(sections, meant(word));
      const close = found.says || word.length < 5 ? [] : words().filter((w) => slip(word, w));
      return close.length ? weighed(sections, close.flatMap(meant)) : found;
    });
    const all = terms.reduce((sum, { says }) => sum + says, 0);
    const found = sections.map((section, k) => {
      const here = terms.filter(({ each }) => each[k]);
      const share = here.reduce((sum, { says }) => sum + says, 0) / all;
      const kind = section.href.startsWith("api") ? 0.5 : section.href.includes("#") ? 1 : 0.7;
      return [here.reduce((sum, { each, says }) => sum + says * each[k], 0) * share ** 2 * kind, section];
    }).filter(([score]) => score > 0).sort((a, b) => b[0] - a[0]);
    return { terms, found: found.filter(([score]) => score > found[0][0] / 10), missing: asked.filter((_, k) => !terms[k].says) };
  }

  function finder() {
    const box = document.querySelector(".finder"), input = document.getElementById("find");
    const hits = document.getElementById("hits"), list = hits.querySelector("ol"), count = hits.querySelector("p");
    let sections = null, vocabulary = null;
    const words = () => vocabulary ??= [...new Set(sections.flatMap((section) => `${section.title} ${section.text}`.match(/[a-z]{4,}/g) ?? []))];
    const show = () => {
      hits.hidden = !(sections && input.value.trim());
      if (hits.hidden) return;
      const { terms, found, missing } = answers(sections, words, input.value);
      const without = missing.length && found.length ? `; nothing about “${missing.join(" ")}”` : "";
      count.textContent = found.length ? `${found.length} of ${sections.length} sections${without}` : "Nothing found.";
      list.replaceChildren(...found.slice(0, 12).map(([, section]) => {
        const item = document.createElement("li"), link = document.createElement("a"), text = document.createElement("span");
        const first = Math.max(0, ...terms.map(({ term }) => section.text.search(term[0][0])));
        link.href = section.href;
        link.textContent = section.shown;
        text.textContent = `${first > 30 ? "…" : ""}${section.whole.slice(Math.max(0, first - 30), first + 110)}…`;
        item.append(link, text);
        return item;
      }));
    };
    const load = () => {
      if (sections) return;
      sections = [];
      const script = document.createElement("script");
      script.src = "sections.js";
      script.onload = () => {
        sections = window.SECTIONS.map(([href, title, text]) => ({ href, shown: title, whole: text, title: plain(title), text: plain(text) }));
        show();
      };
      document.head.append(script);
    };
    box.hidden = false;
    input.addEventListener("focus", load);
    input.addEventListener("input", show);
    box.addEventListener("keydown", (event) => {
      const links = [...list.querySelectorAll("a")], at = links.indexOf(document.activeElement);
      if (event.key === "Enter" && document.activeElement === input) links[0]?.click();
      else if (event.key === "Escape") { input.value = ""; show(); input.focus(); }
      else if (event.key === "ArrowDown") links[at + 1]?.focus();
      else if (event.key === "ArrowUp") (links[at - 1] ?? input).focus();
      else return;
      event.preventDefault();
    });
    list.addEventListener("click", (event) => { if (event.target.closest("a")) hits.hidden = true; });
    addEventListener("keydown", (event) => {
      if (event.key === "/" && !document.getElementById("search") && event.target.tagName !== "INPUT") { event.preventDefault(); input.focus(); }
    });
  }

  // the contents mark the section that is being read
  function whereabouts() {
    const links = new Map([...document.querySelectorAll(".toc a")].map((a) => [document.getElementById(a.hash.slice(1)), a]));
    if (!links.size) return;
    let waiting = false, before = null;
    const mark = () => {
      waiting = false;
      let here = null;
      for (const part of links.keys()) if (part.getBoundingClientRect().top < innerHeight / 3) here = part;
      if (here === before) return;
      links.get(before)?.removeAttribute("aria-current");
      before = here;
      const link = links.get(here), panel = link?.closest("details");
      link?.setAttribute("aria-current", "location");
      if (link && panel.scrollHeight > panel.clientHeight) panel.scrollTop = link.offsetTop - panel.clientHeight / 2;
    };
    addEventListener("scroll", () => { if (!waiting) { waiting = true; requestAnimationFrame(mark); } }, { passive: true });
    mark();
  }

  // code without its prompts and answers
  function copying() {
    const code = (pre) => {
      if (!pre.querySelector(".gp")) return pre.textContent.trimEnd();
      return pre.textContent.split("\n").filter((line) => /^(>>>|\.\.\.|\$)( |$)/.test(line)).map((line) => line.replace(/^(>>>|\.\.\.|\$) ?/, "")).join("\n");
    };
    for (const pre of document.querySelectorAll(".highlight pre")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        const selection = getSelection();
        try { await navigator.clipboard.writeText(code(pre)); button.textContent = "Copied"; }
        catch { selection.selectAllChildren(pre); button.textContent = "Selected"; }
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
      pre.parentElement.append(button);
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
