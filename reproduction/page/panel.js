// What the page does beyond being read: the panel of a node or link, words, the slider of the drawing, interactive figures.
"use strict";
(() => {
  const panel = document.getElementById("panel");
  const content = document.getElementById("panel-content");
  document.documentElement.classList.add("scripted");

  // The evidence that the address names (report.html#a9.h1@END); null if it names something else.
  const named = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const found = id && document.getElementById(id);
    return found && found.classList.contains("evidence") ? found : null;
  };

  const mark = (id) => {
    for (const each of document.querySelectorAll(".chosen")) each.classList.remove("chosen");
    if (!id) return null;
    const places = [...document.querySelectorAll(".drawing a")];
    const place = places.find((each) => decodeURIComponent(each.getAttribute("href").slice(1)) === id);
    if (place) place.classList.add("chosen");
    return place ?? null;
  };

  const inView = (element) => {
    const box = element.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  };

  let shown = null; // the identity of what the panel shows

  const show = () => {
    const evidence = named();
    document.body.classList.toggle("with-panel", evidence !== null);
    if (evidence === null) {
      panel.hidden = true;
      mark(null);
      shown = null;
      return;
    }
    const copy = evidence.cloneNode(true); // what stands in the page stays there, for print and for reading on
    copy.removeAttribute("id");
    content.replaceChildren(copy);
    panel.hidden = false;
    panel.scrollTop = 0;
    shown = evidence.id;
    const place = mark(shown);
    const drawing = document.querySelector(".drawing");
    if (place && !inView(drawing)) drawing.scrollIntoView({block: "center", behavior: "instant"});
    copy.focus({preventScroll: true});
  };

  const close = () => {
    const place = shown && mark(shown);
    history.pushState(null, "", "#circuit-drawing");
    show();
    if (place) place.focus();
  };

  // A link to evidence opens the panel where the reader is, instead of scrolling to the end of the page.
  addEventListener("click", (event) => {
    const link = event.target.closest ? event.target.closest("a[href^='#']") : null;
    if (link === null || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const id = decodeURIComponent(link.getAttribute("href").slice(1));
    const target = document.getElementById(id);
    if (target === null) return;
    if (!target.classList.contains("evidence")) {
      for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
      return;
    }
    event.preventDefault();
    if (decodeURIComponent(location.hash.slice(1)) !== id) history.pushState(null, "", "#" + id);
    show();
  });
  addEventListener("popstate", show);
  addEventListener("hashchange", show);
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (told) tell(null);
    else if (!panel.hidden) close();
  });
  document.getElementById("close").addEventListener("click", close);

  // A word that is explained says what it means under a pointer, with focus, or at a touch; a click, Enter or a second
  // touch leads to the list of words.
  const tip = document.getElementById("tip");
  let told = null; // the word that the tip is about
  let touched = null; // the same when a touch began; undefined for a pointer that hovers
  const place = () => {
    if (told === null) return;
    const word = told.getBoundingClientRect(), room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const above = word.bottom + tip.offsetHeight > innerHeight && word.top > tip.offsetHeight;
    tip.style.left = `${Math.max(8, Math.min(word.left, room))}px`;
    tip.style.top = `${above ? word.top - tip.offsetHeight : word.bottom}px`;
  };
  const tell = (word) => {
    if (told) told.removeAttribute("aria-describedby");
    told = word;
    tip.hidden = word === null;
    if (word === null) return;
    word.setAttribute("aria-describedby", "tip");
    tip.textContent = document.getElementById(decodeURIComponent(word.hash.slice(1))).nextElementSibling.textContent;
    place();
  };
  const wordAt = (event) => event.target.closest ? event.target.closest("a.word") : null;
  addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse" || event.target === tip) return;
    const word = wordAt(event);
    if (word || told !== document.activeElement) tell(word); // what has focus is told, whatever scrolls below a pointer
  });
  addEventListener("focusin", (event) => tell(wordAt(event)));
  addEventListener("pointerdown", (event) => {
    touched = event.pointerType === "mouse" ? undefined : told;
    if (event.target !== tip || touched !== undefined) tell(wordAt(event));
  });
  addEventListener("click", (event) => {
    const word = wordAt(event);
    if (word === null) return;
    const first = touched !== undefined && event.detail > 0 && touched !== word;
    if (first) event.preventDefault();
    tell(first ? word : null);
  });
  addEventListener("scroll", place, {capture: true, passive: true});

  const least = document.getElementById("least");
  if (least) {
    const links = [...document.querySelectorAll(".drawing .link")];
    const hide = () => {
      for (const link of links) {
        link.classList.toggle("thin", Number(link.dataset.share) < least.value / 100 && !("kept" in link.dataset));
      }
      document.getElementById("least-shown").textContent = `${least.value} % of the strongest`;
    };
    least.addEventListener("input", hide);
  }

  // A figure becomes interactive when it comes into view, where the window has room for it; else its picture stays.
  const draw = async (place) => {
    const {plot, width, height} = place.dataset;
    const picture = place.querySelector("img");
    if (picture && place.clientWidth < Number(width)) return;
    watch.unobserve(place);
    const figure = JSON.parse(document.getElementById("data-" + plot).textContent);
    const sheet = document.createElement("div");
    sheet.style.width = width + "px";
    sheet.style.height = height + "px";
    place.append(sheet);
    if (picture) picture.remove();
    await Plotly.newPlot(sheet, figure.data, figure.layout, {displaylogo: false, responsive: false});
    place.dataset.drawn = "yes";
  };
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) draw(entry.target);
    }
  }, {rootMargin: "300px"});
  for (const place of document.querySelectorAll("[data-plot]")) watch.observe(place);

  // What scrolls sideways can be reached by keyboard.
  const fit = () => {
    for (const each of document.querySelectorAll(".sheet")) {
      if (each.scrollWidth > each.clientWidth) each.tabIndex = 0;
      else each.removeAttribute("tabindex");
      if (each.querySelector("img")) { // in a wider window there may be room to draw it
        watch.unobserve(each);
        watch.observe(each);
      }
    }
  };
  addEventListener("resize", fit);
  addEventListener("toggle", fit, {capture: true}); // of what is folded
  fit();

  // What is folded is printed, too, but for the panels of all links.
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details:not(#all-links)")) each.open = true;
    for (const each of document.querySelectorAll("img")) each.loading = "eager";
  });

  addEventListener("load", show); // after the browser has scrolled to what the address names
  show();
})();
