"use strict";
// Every page: clock, heartbeat, the one event stream, the queue's figures, sound, title, keys. No data of persons is kept.
(() => {
  const $ = (id) => document.getElementById(id);
  const body = document.body;
  const words = body.dataset;
  const LOST_MS = 10000, POLL_MS = 3000, RECONNECT_MS = 5000;
  let offset = 0;             // server's clock minus ours, ms
  let heard = Date.now();     // when the stream last said something
  let lastId = "", source = null, lost = false, missed = 0, polled = 0, retried = 0;

  const now = () => Date.now() + offset;
  window.carebell = { now };

  // ---- time ---------------------------------------------------------------------------------------------------------
  function age(ms) {
    const s = Math.max(0, Math.floor(ms / 1000));
    const two = (n) => String(n).padStart(2, "0");
    if (s < 3600) return two(Math.floor(s / 60)) + ":" + two(s % 60);
    if (s < 172800) return Math.floor(s / 3600) + " h " + two(Math.floor(s / 60) % 60);
    return Math.floor(s / 86400) + " d";
  }
  function paintTimes() {
    const at = now();
    for (const element of document.querySelectorAll("[data-since]")) {
      const ms = at - Number(element.dataset.since);
      const text = age(ms);
      if (element.textContent !== text) element.textContent = text;
      if (element.dataset.sla) {
        element.classList.toggle("target", ms >= 30000 && ms < 60000);
        element.classList.toggle("late", ms >= 60000);
      }
      if (element.dataset.stale) element.classList.toggle("stale", ms > Number(element.dataset.stale));
    }
    for (const element of document.querySelectorAll("time[data-at]")) {
      const date = new Date(Number(element.dataset.at));
      const day = date.toDateString() === new Date(at).toDateString() ? "" : (date.getMonth() + 1) + "-" + date.getDate() + " ";
      const text = day + date.toTimeString().slice(0, 8);
      if (element.textContent !== text) { element.textContent = text; element.dateTime = date.toISOString(); }
    }
    const clock = $("clock"), beat = $("beat");
    if (clock) clock.textContent = new Date(at).toTimeString().slice(0, 8);
    if (beat) beat.textContent = ((Date.now() - heard) / 1000).toFixed(1) + " s";
  }

  // ---- sound --------------------------------------------------------------------------------------------------------
  let audio = null, rang = 0;
  const known = new Set();
  function tone(level) {
    if (!audio) return;
    // High: five pulses, rising; medium: three, even (after IEC 60601-1-8); told apart without looking.
    const notes = level === 1 ? [880, 880, 880, 1175, 1175] : [587, 587, 587];
    notes.forEach((frequency, n) => {
      const at = audio.currentTime + n * (level === 1 ? 0.18 : 0.3);
      const oscillator = audio.createOscillator(), gain = audio.createGain();
      oscillator.frequency.value = frequency;
      gain.gain.setValueAtTime(0, at);
      gain.gain.linearRampToValueAtTime(0.4, at + 0.02);
      gain.gain.linearRampToValueAtTime(0, at + 0.14);
      oscillator.connect(gain).connect(audio.destination);
      oscillator.start(at);
      oscillator.stop(at + 0.15);
    });
    body.dataset.rang = String(Number(body.dataset.rang || 0) + 1);
  }
  function soundCheck() {
    audio = audio || new AudioContext();
    audio.resume();
    tone(2);
    const button = $("sound");
    button.textContent = button.dataset.on;
    button.setAttribute("aria-pressed", "true");
  }
  function ring() {
    const waiting = rows.filter((row) => row.handling === "raised" && row.severity <= 2 && !row.suppressed);
    if (!waiting.length) return;
    const level = Math.min(...waiting.map((row) => row.severity));
    const fresh = waiting.some((row) => !known.has(row.id + row.occurrences));
    const unseen = waiting.some((row) => !row.presented);
    if (fresh || Date.now() - rang >= (unseen ? 3000 : 15000)) {
      rang = Date.now();
      tone(level);
    }
    waiting.forEach((row) => known.add(row.id + row.occurrences));
  }

  // ---- the queue ----------------------------------------------------------------------------------------------------
  let rows = [], asking = false, again = false, asked = 0;
  function read(item) {
    const d = item.dataset;
    return { id: d.id, severity: Number(d.severity), handling: d.handling, occurrences: d.occurrences,
             presented: d.presented === "1", suppressed: d.suppressed === "1" };
  }
  function figures(facts) {
    const place = $("figures");
    if (place) {
      const d = facts.dataset;
      place.replaceChildren(...["p1", "p2", "p3"].map((name, n) => {
        const span = document.createElement("span");
        span.textContent = (n ? " · " : "") + name.toUpperCase() + " " + d[name];
        if (name === "p1" && d[name] !== "0") span.className = "p1";
        return span;
      }));
      if (d.oldest) {
        const span = document.createElement("span"), since = document.createElement("span");
        span.textContent = " · " + d.wordOldest + " ";
        since.dataset.since = d.oldest;
        since.dataset.sla = "1";
        since.className = "age";
        place.append(span, since);
      }
    }
    const waiting = rows.filter((row) => row.handling === "raised" && row.severity <= 2 && !row.suppressed).length;
    const base = document.title.replace(/^\(\d+\) /, "");
    document.title = waiting ? "(" + waiting + ") " + base : base;
  }
  function merge(next) {
    const queue = $("queue"), list = $("rows"), fresh = next.querySelector("#rows");
    if (!queue) return;
    const held = queue.matches(":hover") || queue.contains(document.activeElement);
    const focused = document.activeElement && queue.contains(document.activeElement) ? document.activeElement.id : "";
    if (!list || !fresh) {
      queue.replaceChildren(...next.childNodes);
      htmx.process(queue);
    } else {
      const items = [...fresh.children];
      if (held) { // what is under her hand keeps its place; only a new emergency comes in on top
        const place = new Map([...list.children].map((item, n) => [item.id, n]));
        const rank = (item) => place.has(item.id) ? place.get(item.id) : item.dataset.severity === "1" ? -1 : 1e6;
        items.sort((one, other) => rank(one) - rank(other));
      }
      const top = queue.scrollTop;
      const old = new Map([...list.children].map((item) => [item.id, item]));
      items.forEach((item, n) => {
        const before = old.get(item.id);
        let shown = before;
        if (!before || before.dataset.html !== item.outerHTML) {
          shown = document.importNode(item, true);
          shown.dataset.html = item.outerHTML;
          if (before) before.replaceWith(shown);
        }
        if (list.children[n] !== shown) list.insertBefore(shown, list.children[n] || null);
        if (shown !== before) htmx.process(shown);
        old.delete(item.id);
      });
      old.forEach((item) => item.remove());
      const facts = $("facts"), more = queue.querySelector(".more"), moreNow = next.querySelector(".more");
      if (facts) facts.replaceWith(next.querySelector("#facts"));
      if (more) more.remove();
      if (moreNow) queue.append(moreNow);
      queue.scrollTop = top;
    }
    if (focused && $(focused)) $(focused).focus({ preventScroll: true });
    current();
  }
  async function refresh() {
    if (asking) { again = true; return; }
    asking = true;
    asked = Date.now();
    try {
      const answer = await fetch("/console/queue", { headers: { "HX-Request": "true" }, signal: AbortSignal.timeout(8000) });
      if (answer.status === 401) { location.assign("/console/sign-in"); return; }
      if (answer.ok) {
        const next = new DOMParser().parseFromString(await answer.text(), "text/html").body;
        rows = [...next.querySelectorAll(".row")].map(read);
        figures(next.querySelector("#facts"));
        merge(next);
        paintTimes();
        ring();
        present();
      }
    } catch { /* the watchdog says that the connection is lost */ } finally {
      asking = false;
      if (again) { again = false; refresh(); }
    }
  }
  const told = new Set();
  async function present() {
    if (!$("queue") || document.visibilityState !== "visible") return;
    const ids = rows.filter((row) => !row.presented && !told.has(row.id)).slice(0, 100).map((row) => row.id);
    if (!ids.length) return;
    ids.forEach((id) => told.add(id));
    try {
      const answer = await fetch("/console/presented", {
        method: "POST", headers: { "X-CSRF-Token": words.csrf, "Content-Type": "application/x-www-form-urlencoded" },
        body: new URLSearchParams({ alerts: ids.join(",") }),
      });
      if (!answer.ok) throw new Error("refused");
    } catch { ids.forEach((id) => told.delete(id)); }
  }
  function current() {
    const shown = $("alert");
    for (const item of document.querySelectorAll(".row")) {
      if (shown && item.dataset.id === shown.dataset.id) item.setAttribute("aria-current", "true");
      else item.removeAttribute("aria-current");
    }
  }

  // ---- the stream ---------------------------------------------------------------------------------------------------
  function connect() {
    if (source) source.close();
    source = new EventSource("/console/events" + (lastId ? "?after=" + encodeURIComponent(lastId) : ""));
    source.addEventListener("beat", (event) => {
      offset = Number(event.data) - Date.now();
      if (event.lastEventId) lastId = event.lastEventId;
      alive();
      if (Date.now() - asked > 30000) refresh(); // what changes without an alert: who is on shift, names
    });
    source.addEventListener("missed", (event) => { missed = Number(event.data); });
    source.addEventListener("change", (event) => {
      lastId = event.lastEventId;
      alive();
      const changes = JSON.parse(event.data);
      refresh();
      document.dispatchEvent(new CustomEvent("carebell:change", { detail: changes }));
    });
  }
  function alive() {
    heard = Date.now();
    if (!lost) return;
    lost = false;
    setTimeout(() => { // what was missed comes right behind the first heartbeat
      const sign = $("connection");
      sign.className = "back";
      sign.textContent = words.back + missed;
      missed = 0;
      setTimeout(() => { if (!lost) sign.hidden = true; }, 8000);
    }, 400);
    body.classList.remove("lost");
    refresh();
    document.dispatchEvent(new CustomEvent("carebell:change", { detail: [] }));
  }
  function watch() {
    if (Date.now() - heard < LOST_MS) return;
    const sign = $("connection");
    if (!lost) {
      lost = true;
      body.classList.add("lost");
      tone(1);
    }
    sign.hidden = false;
    sign.className = "";
    sign.textContent = words.lost + " (" + Math.floor((Date.now() - heard) / 1000) + " s)";
    if (Date.now() - polled >= POLL_MS) { polled = Date.now(); refresh(); }
    if (Date.now() - retried >= RECONNECT_MS) { retried = Date.now(); connect(); }
  }

  // ---- keys ---------------------------------------------------------------------------------------------------------
  let going = 0;
  const PLACES = { m: "/console/map", p: "/console/persons", d: "/console/devices", s: "/console/statistics", q: "/console" };
  function move(step) {
    const links = [...document.querySelectorAll(".row a, tbody a[data-row]")];
    if (!links.length) return;
    const shown = document.querySelector(".row[aria-current] a");
    let at = links.indexOf(document.activeElement);
    if (at < 0) at = shown ? links.indexOf(shown) : step > 0 ? -1 : links.length;
    const next = links[Math.min(links.length - 1, Math.max(0, at + step))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    if (event.target.closest("input, textarea, select, dialog[open]")) return;
    const key = event.key.toLowerCase();
    const leg = event.target.closest("[data-leg]");
    if (leg) { // somebody on the line: the keys of that row
      const press = leg.querySelector('[data-leg-key="' + CSS.escape(key) + '"]:not(:disabled)');
      const other = key === "j" || key === "arrowdown" ? leg.nextElementSibling : key === "k" || key === "arrowup" ? leg.previousElementSibling : null;
      if (press) press.click();
      if (other) other.focus();
      if (press || other) { event.preventDefault(); return; }
    }
    if (going && Date.now() - going < 1500 && PLACES[key]) { event.preventDefault(); location.assign(PLACES[key]); return; }
    going = 0;
    if (key === "j" || key === "arrowdown") move(1);
    else if (key === "k" || key === "arrowup") move(-1);
    else if (key === "g") going = Date.now();
    else if (key === "l" && document.querySelector("[data-leg]")) document.querySelector("[data-leg]").focus();
    else if (key === "?") $("help").showModal();
    else if (key === "/") { const find = document.querySelector("[data-find]"); if (find) find.focus(); else location.assign("/console/persons"); }
    else {
      const button = document.querySelector('[data-key="' + CSS.escape(key) + '"]:not(:disabled)');
      if (!button) return;
      button.click();
    }
    event.preventDefault();
  });

  // ---- acts: sent, confirmed or not, always said ---------------------------------------------------------------------
  const statusOf = (event) => $(event.detail.target && event.detail.target.id === "conference" ? "legs-status" : "status");
  document.addEventListener("htmx:beforeRequest", (event) => {
    const status = statusOf(event);
    if (status && event.detail.requestConfig.verb !== "get") { status.className = ""; status.textContent = words.sending; }
  });
  for (const name of ["htmx:sendError", "htmx:timeout", "htmx:sendAbort"]) {
    document.addEventListener(name, (event) => {
      const status = statusOf(event);
      if (status && event.detail.requestConfig.verb !== "get") { status.className = "refused"; status.textContent = words.failed; }
    });
  }
  for (const name of ["htmx:afterSettle", "carebell:painted"]) document.addEventListener(name, () => { current(); paintTimes(); });

  document.addEventListener("DOMContentLoaded", () => {
    $("sound").addEventListener("click", soundCheck);
    $("help-key").addEventListener("click", () => $("help").showModal());
    const facts = $("facts");
    if (facts) { offset = Number(facts.dataset.now) - Date.now(); lastId = facts.dataset.seq; }
    rows = [...document.querySelectorAll(".row")].map(read);
    if (facts) { figures(facts); present(); } else refresh();
    current();
    paintTimes();
    connect();
    setInterval(paintTimes, 500);
    setInterval(watch, 500);
    setInterval(ring, 1000);
    const queue = $("queue");
    if (queue) queue.addEventListener("mouseleave", refresh);
    document.addEventListener("visibilitychange", present);
  });
})();
