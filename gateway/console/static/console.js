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
  let rows = [], number = 0, screens = 1, asking = false, again = false, asked = 0;
  const unseen = document.createElement("ol"); // where the rows are on a page that does not show the queue
  const painted = new WeakMap();               // a row's HTML as it came
  const listed = () => $("rows") || unseen;
  function read(item) {
    const d = item.dataset;
    return { id: d.id, severity: Number(d.severity), handling: d.handling, occurrences: d.occurrences,
             presented: d.presented === "1", suppressed: d.suppressed === "1" };
  }
  function figures(facts) {
    const place = $("figures");
    if (place) {
      place.replaceChildren(...["p1", "p2", "p3"].map((name, n) => {
        const span = document.createElement("span");
        span.textContent = (n ? " · " : "") + name.toUpperCase() + " " + facts[name];
        if (name === "p1" && Number(facts[name])) span.className = "p1";
        return span;
      }));
      if (facts.oldest_ms) {
        const span = document.createElement("span"), since = document.createElement("span");
        span.textContent = " · " + $("facts").dataset.wordOldest + " ";
        since.dataset.since = facts.oldest_ms;
        since.dataset.sla = "1";
        since.className = "age";
        place.append(span, since);
      }
    }
    const more = $("more");
    if (more) { more.hidden = !Number(facts.left_out); more.querySelector("span").textContent = facts.left_out; }
    const waiting = rows.filter((row) => row.handling === "raised" && row.severity <= 2 && !row.suppressed).length;
    const base = document.title.replace(/^\(\d+\) /, "");
    document.title = waiting ? "(" + waiting + ") " + base : base;
  }
  function factsOf(element) {
    const d = element.dataset;
    number = Number(d.number);
    screens = Number(d.screens);
    return { p1: d.p1, p2: d.p2, p3: d.p3, oldest_ms: d.oldest, left_out: d.leftOut };
  }
  function order(one, other) { // as the server does: urgent first, then what nobody has, then the oldest
    const a = one.dataset, b = other.dataset, taken = (d) => (d.handling === "raised" ? 0 : 1);
    return a.suppressed - b.suppressed || a.severity - b.severity || taken(a) - taken(b) || a.raised - b.raised || (a.id < b.id ? -1 : 1);
  }
  function paint(fresh, stays) { // rows as they are now; stays: whether a row of this id that is not among them remains
    const queue = $("queue"), list = listed();
    const inside = queue && queue.contains(document.activeElement);
    const held = queue && (queue.matches(":hover") || inside), focused = inside ? document.activeElement.id : "";
    const top = queue ? queue.scrollTop : 0;
    const place = new Map([...list.children].map((item, n) => [item.id, n]));
    const arrived = new Set(fresh.map((item) => item.id));
    for (const item of [...list.children]) if (!arrived.has(item.id) && !stays(item.dataset.id)) item.remove();
    for (const item of fresh) {
      const before = list === unseen ? [...list.children].find((each) => each.id === item.id) : $(item.id), html = item.outerHTML;
      if (before && painted.get(before) === html) continue;
      const shown = document.importNode(item, true);
      painted.set(shown, html);
      if (before) before.replaceWith(shown); else list.append(shown);
      if (list !== unseen) htmx.process(shown);
    }
    // What is under her hand keeps its place; only a new emergency comes in on top.
    const rank = (item) => (place.has(item.id) ? place.get(item.id) : item.dataset.severity === "1" ? -1 : 1e6);
    const items = [...list.children].sort((one, other) => (held && rank(one) - rank(other)) || order(one, other));
    items.forEach((item, n) => { if (list.children[n] !== item) list.insertBefore(item, list.children[n] || null); });
    rows = items.map(read);
    const calm = $("calm");
    if (calm) {
      if (!items.length && calm.hidden) setTimeout(refresh, Math.random() * 3000); // its figures are as of when it was made
      list.hidden = !items.length;
      calm.hidden = items.length > 0;
    }
    if (queue) queue.scrollTop = top;
    if (focused && $(focused)) $(focused).focus({ preventScroll: true });
    current();
  }
  function shown(facts) {
    figures(facts);
    paintTimes();
    ring();
    present();
  }
  function take(news) { // rows that changed; what is missing in between is fetched
    if (news.number <= number) return;
    if (news.before > number || !news.rows) { refresh(); return; }
    number = news.number;
    screens = news.facts.screens;
    const made = new DOMParser().parseFromString("<ol>" + news.rows.map((row) => row[1]).join("") + "</ol>", "text/html");
    const gone = new Set(news.gone);
    paint([...made.querySelectorAll(".row")], (id) => !gone.has(id));
    shown(news.facts);
  }
  async function refresh() {
    if (asking) { again = true; return; }
    asking = true;
    asked = Date.now();
    try {
      const answer = await fetch("/console/queue", { headers: { "HX-Request": "true" }, signal: AbortSignal.timeout(8000) });
      if (answer.status === 401) { location.assign("/console/sign-in"); return; }
      if (answer.ok) {
        const next = new DOMParser().parseFromString(await answer.text(), "text/html"), facts = next.getElementById("facts");
        if (Number(facts.dataset.number) >= number) {
          const calm = $("calm");
          if (calm) calm.innerHTML = next.getElementById("calm").innerHTML;
          const told = factsOf(facts);
          paint([...next.querySelectorAll(".row")], () => false);
          shown(told);
        }
      }
    } catch { /* the watchdog says that the connection is lost */ } finally {
      asking = false;
      if (again) { again = false; refresh(); }
    }
  }

  // ---- receipts: of many screens that show an alert a few tell the server, soon; the others hear that it knows --------
  const told = new Set(), due = new Map();
  let presenting = 0;
  function patience() {
    const most = Math.min(3000, 3 * screens), spread = Math.E * screens;
    return screens < 2 ? 0 : most * Math.log1p(Math.random() * (spread - 1)) / Math.log(spread);
  }
  function present() {
    clearTimeout(presenting);
    if (!$("queue") || document.visibilityState !== "visible") return;
    const open = new Set(rows.filter((row) => !row.presented && !told.has(row.id)).map((row) => row.id));
    for (const id of due.keys()) if (!open.has(id)) due.delete(id);
    for (const id of open) if (!due.has(id)) due.set(id, Date.now() + patience());
    const at = Date.now(), ids = [...due.keys()].filter((id) => due.get(id) <= at).slice(0, 100);
    if (ids.length) receipt(ids);
    if (due.size) presenting = setTimeout(present, Math.max(10, Math.min(...due.values()) - at));
  }
  async function receipt(ids) {
    ids.forEach((id) => { told.add(id); due.delete(id); });
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
      const calm = $("calm");
      if (calm && !calm.hidden && Date.now() - asked > 30000) refresh(); // who is on shift, how new the newest data is
    });
    source.addEventListener("missed", (event) => { missed = Number(event.data); });
    source.addEventListener("change", (event) => {
      lastId = event.lastEventId;
      alive();
      document.dispatchEvent(new CustomEvent("carebell:change", { detail: JSON.parse(event.data) }));
    });
    source.addEventListener("queue", (event) => { alive(); take(JSON.parse(event.data)); });
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
  // A refusal that is no case takes no case's place: it is said, and the case stays and is asked for anew.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, target } = event.detail;
    if (xhr.status < 400 || (target.id !== "alert" && target.id !== "conference")) return;
    const answer = new DOMParser().parseFromString(xhr.responseText, "text/html");
    if (answer.getElementById(target.id)) return;
    event.detail.shouldSwap = false;
    const status = statusOf(event), why = answer.querySelector(".refused");
    if (status) { status.className = "refused"; status.textContent = why ? why.textContent.trim() : words.failed; }
    if (event.detail.requestConfig.verb !== "get") setTimeout(() => document.dispatchEvent(new CustomEvent("carebell:change", { detail: [] })), 0);
  });
  for (const name of ["htmx:afterSettle", "carebell:painted"]) document.addEventListener(name, () => { current(); paintTimes(); });

  document.addEventListener("DOMContentLoaded", () => {
    $("sound").addEventListener("click", soundCheck);
    $("help-key").addEventListener("click", () => $("help").showModal());
    const facts = $("facts"), queue = $("queue");
    if (facts) {
      offset = Number(queue.dataset.now) - Date.now();
      lastId = facts.dataset.seq;
      rows = [...document.querySelectorAll(".row")].map(read);
      const at = factsOf(facts);
      figures(at);
      present();
    } else refresh();
    current();
    paintTimes();
    connect();
    setInterval(paintTimes, 500);
    setInterval(watch, 500);
    setInterval(ring, 1000);
    if (queue) queue.addEventListener("mouseleave", () => paint([], () => true));
    document.addEventListener("visibilitychange", present);
  });
})();
