"use strict";
// Every page: clock, heartbeat, the one event stream, the queue's figures, sound, title, keys. No data of persons is kept.
(() => {
  const $ = (id) => document.getElementById(id);
  const body = document.body;
  const words = body.dataset;
  const LOST_MS = 10000, POLL_MS = 3000, RECONNECT_MS = 5000, RETRY_MS = 2000, LIMIT_MS = 8000;
  let offset = 0;             // server's clock minus ours, ms
  let heard = Date.now();     // when the stream last said something
  let lastId = "", source = null, lost = false, missed = 0, polled = 0, retried = 0;
  let behind = 0;             // since when the queue cannot be read, 0: it can
  let ended = false;

  const now = () => Date.now() + offset;
  async function ask(path, options = {}) { // every question of a script: it has an end, and knows when nobody is signed in
    const headers = { "HX-Request": "true", ...options.headers };
    const answer = await fetch(path, { ...options, headers, signal: AbortSignal.timeout(LIMIT_MS) });
    if (answer.status === 401) elsewhere(answer.headers.get("HX-Redirect"));
    return answer;
  }
  function faultSign(marker) { // a line that says what is not there; data-<marker> finds it again
    const sign = document.createElement("p");
    sign.className = "refused";
    sign.dataset[marker] = "1";
    sign.setAttribute("role", "alert");
    return sign;
  }
  window.carebell = { now, ask, faultSign, RETRY_MS };

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
  const SOUND = "carebell:sound", AGAIN_MS = 15000, CALLS = 40;
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
  function wake() {
    if (!audio) { audio = new AudioContext(); audio.onstatechange = paintSound; }
    audio.resume();
    paintSound();
  }
  function paintSound() { // what it says is what is heard
    const button = $("sound"), on = Boolean(audio) && audio.state === "running";
    if (!button) return;
    button.textContent = on ? button.dataset.on : button.dataset.off;
    button.setAttribute("aria-pressed", String(on));
  }
  function soundCheck() {
    wake();
    tone(2);
    try { sessionStorage.setItem(SOUND, "1"); } catch { /* then the next page asks again */ }
  }
  function soundAgain() { // it was on before this page: a browser may want a key or a touch first
    let wanted = null;
    try { wanted = sessionStorage.getItem(SOUND); } catch { return; }
    if (!wanted) return;
    wake();
    for (const name of ["keydown", "pointerdown"]) document.addEventListener(name, () => { if (audio.state !== "running") wake(); });
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
      const answer = await ask("/console/queue");
      if (ended) return;
      if (!answer.ok) throw new Error(String(answer.status));
      const next = new DOMParser().parseFromString(await answer.text(), "text/html"), facts = next.getElementById("facts");
      if (Number(facts.dataset.number) >= number) {
        const calm = $("calm");
        if (calm) calm.innerHTML = next.getElementById("calm").innerHTML;
        const told = factsOf(facts);
        paint([...next.querySelectorAll(".row")], () => false);
        shown(told);
      }
      behind = 0;
      if (lost && !isLost()) back();
    } catch { behind = behind || Date.now(); /* the watchdog asks again, and says so when it lasts */ } finally {
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
      const answer = await ask("/console/presented", {
        method: "POST", headers: { "X-CSRF-Token": words.csrf, "Content-Type": "application/x-www-form-urlencoded" },
        body: new URLSearchParams({ alerts: ids.join(",") }),
      });
      if (!answer.ok) throw new Error("refused");
    } catch { // a duty phone rings for what no screen has shown
      ids.forEach((id) => told.delete(id));
      setTimeout(present, RETRY_MS);
    }
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
    if (lost && !isLost()) back();
  }
  function back() {
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
  const isLost = () => Date.now() - heard >= LOST_MS || (behind > 0 && Date.now() - behind >= LOST_MS);
  function watch() {
    if (behind && Date.now() - polled >= POLL_MS) { polled = Date.now(); refresh(); }
    if (source.readyState === EventSource.CLOSED && Date.now() - retried >= POLL_MS) { // refused: the browser leaves it at that
      retried = Date.now();
      connect();
      refresh();
    }
    if (!isLost()) return;
    const sign = $("connection");
    if (!lost) {
      lost = true;
      body.classList.add("lost");
      tone(1);
    }
    sign.hidden = false;
    sign.className = "";
    sign.textContent = words.lost + " (" + Math.floor((Date.now() - Math.min(heard, behind || heard)) / 1000) + " s)";
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
      if (!button || button.closest("[inert]")) return;
      button.click();
    }
    event.preventDefault();
  });

  // ---- the end of a session ------------------------------------------------------------------------------------------
  let timers = [];
  function elsewhere(path) {
    if (path && !path.endsWith("/sign-in")) { location.assign(path); return; }
    if (ended) return;
    ended = true; // nothing of persons stays on the screen, and whoever relies on it hears of it
    timers.forEach(clearInterval);
    if (source) source.close();
    body.className = "";
    body.replaceChildren($("over").content.cloneNode(true));
    document.title = "⚠ " + words.over;
    tone(1);
    let calls = 1;
    setInterval(() => { if (calls < CALLS) { calls += 1; tone(1); } }, AGAIN_MS);
  }
  document.addEventListener("htmx:beforeOnLoad", (event) => {
    if (event.detail.xhr.status !== 401) return;
    event.preventDefault();
    elsewhere(event.detail.xhr.getResponseHeader("HX-Redirect"));
  });

  // ---- acts: sent, confirmed or not, always said ---------------------------------------------------------------------
  const isAct = (event) => event.detail.requestConfig.verb !== "get";
  const statusOf = (target) => target.querySelector(target.id === "conference" ? "#legs-status" : "#status");
  function say(status, className, text) {
    if (!status) return;
    status.className = className;
    status.textContent = text;
  }
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (isAct(event)) say(statusOf(event.detail.target), "", words.sending);
  });
  function undone(target, why) { // and what became of it is asked
    say(statusOf(target), "refused", why);
    setTimeout(() => document.dispatchEvent(new CustomEvent("carebell:change", { detail: [] })), 0);
  }
  const reasonIn = (answer) => { const why = answer.querySelector(".refused"); return why ? why.textContent.trim() : ""; };
  document.addEventListener("htmx:beforeSend", (event) => {
    const { target, xhr } = event.detail;
    if (!isAct(event)) return;
    xhr.addEventListener("loadend", () => { // no event of a case that she has left meanwhile comes here
      if (ended || document.contains(target) || (xhr.status >= 200 && xhr.status < 400)) return;
      leftUndone(target, reasonIn(new DOMParser().parseFromString(xhr.responseText, "text/html")) || words.unknown);
    });
  });
  function leftUndone(target, why) {
    const notice = $("notice"), heading = target.querySelector("h1"), link = document.createElement("a");
    if (!notice || !heading) return;
    link.href = "/console/alerts/" + encodeURIComponent(target.dataset.id);
    link.textContent = heading.textContent;
    notice.replaceChildren(why + " · ", link);
    notice.hidden = false;
  }

  // ---- parts of the page that did not come: said in their place, and asked for again ----------------------------------
  const renewals = new WeakMap();
  let opening = 0; // the case that was asked for last
  const isPassing = (status) => status < 400 || status >= 500 || status === 408 || status === 429;
  function missing(target, path, status, why) {
    if (!document.contains(target)) return;
    clearTimeout(renewals.get(target));
    let sign = target.querySelector("[data-fault]");
    if (!sign) {
      sign = faultSign("fault");
      if (target.id === "work") { // not the case before it: keys would count for that one
        target.replaceChildren(sign);
        if (location.pathname !== path) history.pushState({ htmx: true }, "", path);
        document.dispatchEvent(new CustomEvent("carebell:painted"));
      } else target.prepend(sign);
    }
    sign.textContent = why || words.missing;
    if (!isPassing(status)) return;
    const asked = opening;
    renewals.set(target, setTimeout(() => {
      if (!document.contains(target)) return;
      if (target.id !== "work") htmx.trigger(target, "refresh");
      else if (asked === opening) htmx.ajax("GET", path, { target: "#work", swap: "innerHTML" }).catch(() => {}); // its events tell
    }, RETRY_MS));
  }
  let underWay = 0;
  document.addEventListener("htmx:beforeRequest", (event) => { if (event.detail.target.id === "work") opening += 1; });
  document.addEventListener("htmx:beforeSend", (event) => { // she means the case that she asked for: nothing counts for the one before
    const { target, xhr } = event.detail;
    if (target.id !== "work") return;
    underWay += 1;
    target.inert = true;
    xhr.addEventListener("loadend", () => { underWay -= 1; target.inert = underWay > 0; });
  });
  for (const name of ["htmx:sendError", "htmx:timeout", "htmx:sendAbort"]) {
    document.addEventListener(name, (event) => {
      if (isAct(event)) undone(event.detail.target, words.unknown);
      else if (name !== "htmx:sendAbort") missing(event.detail.target, event.detail.pathInfo.requestPath, 0, "");
    });
  }
  document.addEventListener("htmx:historyCacheMissLoadError", (event) => { // back or forward, to a case that does not come
    if (event.detail.path.startsWith("/console/alerts/")) missing($("work"), event.detail.path, 503, "");
    else location.assign(event.detail.path);
  });
  document.addEventListener("htmx:historyCacheMissLoad", (event) => {
    const { pathname } = new URL(event.detail.xhr.responseURL);
    if (pathname.endsWith("/sign-in")) elsewhere(pathname);
  });
  // An answer that is not the part takes no part's place: it is said, and what stood there stays.
  const PARTS = { alert: "#alert", work: "#alert", conference: "#conference", readings: ".card" };
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, target, pathInfo } = event.detail;
    if (!PARTS[target.id] || xhr.status === 204) return;
    const answer = new DOMParser().parseFromString(xhr.responseText, "text/html");
    if (answer.querySelector(PARTS[target.id])) return;
    const told = xhr.status >= 400 ? reasonIn(answer) : "";
    event.detail.shouldSwap = false;
    if (!isAct(event)) missing(target, pathInfo.requestPath, xhr.status, told);
    else undone(target, told || (xhr.status === 503 ? words.failed : words.unknown));
  });
  for (const name of ["htmx:afterSettle", "carebell:painted"]) document.addEventListener(name, () => { current(); paintTimes(); });

  document.addEventListener("DOMContentLoaded", () => {
    $("sound").addEventListener("click", soundCheck);
    soundAgain();
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
    timers = [setInterval(paintTimes, 500), setInterval(watch, 500), setInterval(ring, 1000)];
    if (queue) queue.addEventListener("mouseleave", () => paint([], () => true));
    document.addEventListener("visibilitychange", present);
  });
})();
