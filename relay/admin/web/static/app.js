// What pages do by themselves: theme, news by server-sent events, the chart, tabs, ticking, asking back.
"use strict";
(() => {
  const $ = (query, within = document) => within.querySelector(query);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // Theme

  const theme = $("#theme");
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const showTheme = () => {
    if (theme) theme.setAttribute("aria-pressed", String(isDark()));
    document.dispatchEvent(new Event("relay:theme"));
  };
  if (theme) {
    theme.addEventListener("click", () => {
      const next = isDark() ? "light" : "dark";
      document.documentElement.dataset.theme = next;
      try { localStorage.setItem("relay-theme", next); } catch { /* for this page only, then */ }
      showTheme();
    });
  }
  dark.addEventListener("change", showTheme);
  showTheme();

  // News: parts of the page that show what happens ask for themselves again. Not while somebody works in them.

  const live = document.body.dataset.live;
  const state = $("#live-state");
  const say = (how, words) => {
    if (!state || state.dataset.state === how) return;
    state.dataset.state = how;
    $("#live-words").textContent = words;
  };
  const news = () => document.body.dispatchEvent(new Event("relay:news"));
  let source = null;
  const listen = () => {
    if (!live || source) return;
    source = new EventSource(live);
    source.addEventListener("open", () => say("on", "live"));
    source.addEventListener("error", () => say("off", "not live"));
    source.addEventListener("news", news);
    source.addEventListener("tick", news);
  };
  const stop = () => { if (source) { source.close(); source = null; } };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { stop(); } else { listen(); news(); }
  });
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", (event) => { if (event.persisted) { listen(); news(); } });
  listen();

  const isBusy = (part) =>
    $("input:checked", part) !== null ||
    (part.contains(document.activeElement) && /^(INPUT|SELECT|TEXTAREA|SUMMARY)$/.test(document.activeElement.tagName)) ||
    (!window.getSelection().isCollapsed && part.contains(window.getSelection().anchorNode));
  document.body.addEventListener("htmx:beforeRequest", (event) => {
    const part = event.detail.elt;
    const by = event.detail.requestConfig.triggeringEvent;
    if (by && by.type === "relay:news" && (document.hidden || isBusy(part))) event.preventDefault();
  });
  // What was opened stays open, and the focus stays where it was, when a part is drawn anew.
  let open = [], focused = "";
  const nameOf = (link) => link && link.tagName === "A" ? link.getAttribute("href") : "";
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const part = event.detail.target;
    open = [...part.querySelectorAll("details")].map((each) => each.open);
    focused = part.contains(document.activeElement) ? nameOf(document.activeElement) : "";
  });
  document.body.addEventListener("htmx:afterSwap", (event) => {
    const part = event.detail.target;
    const now = [...part.querySelectorAll("details")];
    if (now.length === open.length) now.forEach((each, n) => { each.open = open[n]; });
    if (focused) { const link = [...part.querySelectorAll("a")].find((each) => nameOf(each) === focused); if (link) link.focus({ preventScroll: true }); }
    open = []; focused = "";
  });
  document.body.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status === 401) window.location.assign("/login");
  });

  // Asking back before what cannot be undone

  document.addEventListener("submit", (event) => {
    const words = (event.submitter && event.submitter.dataset.confirm) || event.target.dataset.confirm;
    if (words && !window.confirm(words)) event.preventDefault();
  });

  // Ticking all

  document.addEventListener("change", (event) => {
    if (event.target.id === "tick-all") {
      for (const box of document.querySelectorAll("input[name=id]")) box.checked = event.target.checked;
    }
  });

  // Copying a new password

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText($(`#${button.dataset.copy}`).textContent);
      button.textContent = "Copied";
    } catch {
      window.getSelection().selectAllChildren($(`#${button.dataset.copy}`));
    }
  });

  // Tabs, as WAI-ARIA describes them

  for (const box of document.querySelectorAll("[data-tabs]")) {
    const tabs = [...box.querySelectorAll("[role=tab]")];
    const choose = (tab) => {
      for (const each of tabs) {
        const is = each === tab;
        each.setAttribute("aria-selected", String(is));
        each.tabIndex = is ? 0 : -1;
        document.getElementById(each.getAttribute("aria-controls")).hidden = !is;
      }
    };
    tabs.forEach((tab, n) => {
      tab.addEventListener("click", () => choose(tab));
      tab.addEventListener("keydown", (event) => {
        const to = { ArrowRight: n + 1, ArrowLeft: n - 1, Home: 0, End: tabs.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        const next = tabs[(to + tabs.length) % tabs.length];
        choose(next);
        next.focus();
      });
    });
  }

  // The chart

  const box = $("#chart");
  if (box && window.uPlot) {
    const series = [["in", "In", "--line-1"], ["delivered", "Delivered", "--line-2"], ["deferred", "Put off", "--line-3"], ["refused", "Refused", "--line-4"]];
    let plot = null, data = null;
    // A custom property may be light-dark(…); what it comes to is read off an element that has it as its colour.
    const probe = document.createElement("span");
    probe.hidden = true;
    box.after(probe);
    const colour = (name) => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
    const draw = () => {
      if (!data) return;
      if (plot) plot.destroy();
      const axis = { stroke: colour("--faint"), grid: { stroke: colour("--rule"), width: 1 }, ticks: { stroke: colour("--rule"), width: 1 }, font: "11px system-ui, sans-serif" };
      plot = new window.uPlot({
        width: box.clientWidth, height: box.clientWidth < 500 ? 150 : 190,
        legend: { show: false }, cursor: { y: false, points: { size: 6 } }, tzDate: (at) => window.uPlot.tzDate(new Date(at * 1e3), "Etc/UTC"),
        scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 6)] } },
        axes: [{ ...axis, size: 28, values: (_, at) => at.map((each) => new Date(each * 1e3).toISOString().slice(11, 16)) }, { ...axis, size: 44 }],
        series: [{}, ...series.map(([, label, line], n) => ({ label, stroke: colour(line), width: [4, 1.75, 1.25, 1.25][n], points: { show: false } }))],
      }, [data.at, ...series.map(([name]) => data[name])], box);
      const legend = $("#legend");
      legend.replaceChildren(...series.map(([, label], n) => {
        const item = document.createElement("li");
        item.textContent = label;
        item.className = `line-${n + 1}`;
        return item;
      }));
    };
    const load = async () => {
      if (document.hidden) return;
      try {
        const answer = await fetch(box.dataset.chart);
        if (!answer.ok) return;
        data = await answer.json();
        draw();
      } catch { /* the next one comes */ }
    };
    load();
    window.setInterval(load, 10000);
    document.addEventListener("relay:theme", draw);
    let width = 0;
    new ResizeObserver(() => { if (box.clientWidth !== width) { width = box.clientWidth; draw(); } }).observe(box);
  }
})();
