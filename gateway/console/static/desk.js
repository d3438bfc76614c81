"use strict";
// The case: palettes of acts, the panel kept up to date, and the map.
(() => {
  const $ = (id) => document.getElementById(id);
  const words = document.body.dataset, { ask, faultSign, RETRY_MS } = window.carebell;
  let map = null, layer = null, shownFor = null, timer = 0, fitted = false;

  // ---- palettes -----------------------------------------------------------------------------------------------------
  function open(name) {
    const dialog = $(name), alert = $("alert");
    if (!dialog || !alert) return;
    const form = dialog.querySelector("form");
    if (form.dataset.unsent !== alert.dataset.id) form.reset(); // what did not arrive need not be typed again
    form.dataset.sure = "";
    form.querySelector("[data-sure]").hidden = true;
    const offered = form.querySelector("[data-offered]");
    if (offered) offer(offered);
    dialog.showModal();
    const field = form.querySelector("textarea, input[type=radio], input");
    if (field) field.focus();
  }
  async function offer(place) {
    const dialog = place.closest("dialog"), mine = place.dataset.asked = String(performance.now());
    place.replaceChildren();
    const where = place.dataset.offered === "parties" ? "/console/alerts/" + $("alert").dataset.id + "/parties" : "/console/colleagues";
    let people = null;
    try {
      const answer = await ask(where);
      if (answer.ok) people = await answer.json();
    } catch { /* said below */ }
    if (place.dataset.asked !== mine) return;
    if (!people) {
      place.textContent = words.missing;
      setTimeout(() => { if (dialog.open && place.dataset.asked === mine) offer(place); }, RETRY_MS);
      return;
    }
    place.replaceChildren();
    people.forEach(([id, name], n) => {
      const label = document.createElement("label"), input = document.createElement("input"), key = document.createElement("kbd");
      input.type = "radio"; input.name = place.dataset.name; input.value = id; input.required = true; input.dataset.digit = String(n + 1);
      key.textContent = String(n + 1);
      label.append(input, key, " " + name);
      place.append(label);
    });
    if (!people.length) place.textContent = place.dataset.none;
    else place.querySelector("input").focus();
  }
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-palette]");
    if (opener) open(opener.dataset.palette);
    if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
  });
  document.addEventListener("keydown", (event) => {
    const dialog = document.querySelector("dialog[open]");
    if (!dialog || event.target.closest("textarea, input:not([type=radio])") || !/^[1-9]$/.test(event.key)) return;
    const choice = dialog.querySelector('[data-digit="' + event.key + '"]');
    if (choice) { choice.checked = true; choice.focus(); event.preventDefault(); }
  });
  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-act]");
    if (!form) return;
    event.preventDefault();
    const alert = $("alert"), act = form.dataset.act;
    if (act === "resolve" && alert.dataset.severity === "1" && form.dataset.sure !== "1") {
      form.dataset.sure = "1";
      form.querySelector("[data-sure]").hidden = false;
      return;
    }
    const values = Object.fromEntries(new FormData(form));
    values.version = alert.dataset.version;
    const path = act === "conference" ? "call" : act;
    form.closest("dialog").close();
    form.dataset.unsent = alert.dataset.id;
    if (act === "end") {
      htmx.ajax("POST", "/console/alerts/" + alert.dataset.id + "/conference/end", { target: "#conference", swap: "outerHTML", source: "#conference" }).catch(() => {});
      return;
    }
    htmx.ajax("POST", "/console/alerts/" + alert.dataset.id + "/" + path, { target: "#alert", swap: "outerHTML", values, source: "#alert" }).catch(() => {}); // its events tell
    alert.focus({ preventScroll: true });
  });

  // ---- up to date ---------------------------------------------------------------------------------------------------
  let acting = 0, dropped = false; // acts under way: their own answer is newer than any refresh
  document.addEventListener("htmx:beforeSend", (event) => {
    const { xhr, requestConfig, pathInfo } = event.detail;
    if (requestConfig.verb === "get") return;
    acting += 1;
    xhr.addEventListener("loadend", () => { // comes whatever became of it, and also when she has left the case
      acting -= 1;
      if (xhr.status >= 200 && xhr.status < 400) sent(pathInfo.requestPath);
      if (dropped && !acting) renew();
    });
  });
  function sent(path) {
    const act = path.split("/").pop(), form = document.querySelector('form[data-act="' + (act === "call" ? "conference" : act) + '"]');
    if (form) form.dataset.unsent = "";
  }
  let pressed = false; // a button that is exchanged between press and release is not clicked
  document.addEventListener("pointerdown", () => { pressed = true; });
  for (const name of ["pointerup", "pointercancel", "dragend"]) document.addEventListener(name, () => setTimeout(() => { pressed = false; }, 0));
  let looking = false, behind = false, retry = 0;
  document.addEventListener("carebell:change", (event) => {
    const alert = $("alert");
    if (alert && (!event.detail.length || event.detail.some((change) => change.alert === alert.dataset.id))) renew();
  });
  async function renew() { // one look at a time: of two the older answer could come last
    clearTimeout(retry);
    const alert = $("alert");
    if (!alert || $("shown")) return; // a number that was asked for stays until she leaves it
    if (acting) { dropped = true; return; }
    if (looking) { behind = true; return; }
    looking = true;
    behind = dropped = false;
    const fault = await exchange(alert);
    looking = false;
    if (fault && $("alert") === alert) {
      let sign = alert.querySelector("[data-stale-case]");
      if (!sign) {
        sign = faultSign("staleCase");
        $("status").after(sign);
      }
      sign.textContent = fault;
      retry = setTimeout(renew, RETRY_MS);
    }
    if (behind) renew();
  }
  async function exchange(alert) { // what stood in the way, "" for nothing
    let text = "";
    try {
      const answer = await ask("/console/alerts/" + alert.dataset.id + "/panel");
      text = await answer.text();
      if (!answer.ok) return words.stale;
    } catch { return words.stale; }
    const unsettled = () => pressed || alert.classList.contains("htmx-settling"); // what was answered is not whole before that
    for (let n = 0; unsettled() && n < 1000; n += 1) await new Promise((done) => setTimeout(done, 30));
    const next = new DOMParser().parseFromString(text, "text/html").getElementById("alert");
    if (!next) return words.stale;
    dropped = dropped || acting > 0;
    if (acting || $("alert") !== alert || $("shown")) return "";
    keep(next);
    const status = $("status"), focused = alert.contains(document.activeElement) ? document.activeElement.id : "";
    const said = status.textContent.trim() ? status : null;
    const top = alert.scrollTop;
    if (said) next.querySelector("#status").replaceWith(said.cloneNode(true)); // what was confirmed is still so
    alert.replaceWith(document.adoptNode(next));
    htmx.process($("alert"));
    $("alert").scrollTop = top;
    if (focused && $(focused)) $(focused).focus({ preventScroll: true });
    document.dispatchEvent(new CustomEvent("carebell:painted"));
    return "";
  }

  // Who is on the line is asked apart from the case, and stays where it is while the case is exchanged.
  function keep(next) {
    const line = $("line"), slot = next.querySelector("#line");
    if (line && slot) slot.replaceWith(line);
  }
  document.addEventListener("htmx:afterRequest", (event) => {
    const line = $("conference");
    if (line && event.detail.requestConfig.verb !== "get" && event.detail.target.id === "alert") htmx.trigger(line, "refresh");
  });

  // ---- map ----------------------------------------------------------------------------------------------------------
  const KINDS = new Set(["boundary", "street", "building", "park", "water"]);
  const COLOURS = { home: "#0a5c36", allowed: "#0b4f6c", forbidden: "#b00020" };
  function build(place) {
    map = L.map(place, { attributionControl: false, zoomControl: true, keyboard: false, zoomAnimation: false, fadeAnimation: false });
    map.setView([35, 105], 4);
    if (place.dataset.outline) map.createPane("outline").style.zIndex = 150; // beneath the tiles too: it is what remains when their server is away
    if (place.dataset.tiles) {
      L.tileLayer(place.dataset.tiles, { maxZoom: 18 }).addTo(map);
      if (place.dataset.attribution) L.control.attribution({ prefix: false }).addAttribution(document.createTextNode(place.dataset.attribution).textContent.replace(/[<>&"]/g, "")).addTo(map);
    }
    L.control.scale({ imperial: false }).addTo(map);
    layer = L.layerGroup().addTo(map);
  }
  async function outline(place) {
    if (!place.dataset.outline || place.dataset.outlined) return;
    const answer = await ask(place.dataset.outline);
    if (!answer.ok) return;
    const told = await answer.json();
    if (shownFor !== place || place.dataset.outlined) return;
    L.geoJSON(told, {
      pane: "outline", interactive: false,
      style: (feature) => ({ className: "outline " + (KINDS.has(feature.properties && feature.properties.kind) ? feature.properties.kind : "") }),
      pointToLayer: (_, at) => L.circleMarker(at, { pane: "outline", radius: 2, interactive: false, className: "outline" }),
    }).addTo(map);
    place.dataset.outlined = "1";
  }
  function pin(point, kind, title) {
    const icon = L.divIcon({ className: "pin " + kind, iconSize: [18, 18] });
    return L.marker([point.lat, point.lon], { icon, title, alt: title, keyboard: false });
  }
  function draw(place, data) {
    layer.clearLayers();
    const bounds = L.latLngBounds([]);
    for (const fence of data.fences || []) {
      const style = { color: COLOURS[fence.kind] || "#66737d", weight: 2, fillOpacity: 0.08, dashArray: fence.kind === "forbidden" ? "6 4" : null };
      if (fence.geometry.type === "Point") {
        const at = [fence.geometry.coordinates[1], fence.geometry.coordinates[0]];
        if (fence.radius_m) L.circle(at, { ...style, radius: fence.radius_m }).addTo(layer);
        pin({ lat: at[0], lon: at[1] }, fence.kind === "home" ? "house" : "old", fence.name).addTo(layer);
        bounds.extend(at);
      } else {
        bounds.extend(L.geoJSON(fence.geometry, { style }).addTo(layer).getBounds());
      }
    }
    const trail = (data.trail || []).map((point) => [point.lat, point.lon]);
    if (trail.length > 1) L.polyline(trail, { color: "#0b4f6c", weight: 3, opacity: 0.7 }).addTo(layer);
    const newest = data.newest, words = $("map-words");
    if (newest) {
      if (newest.accuracy_m) L.circle([newest.lat, newest.lon], { radius: newest.accuracy_m, color: "#0b4f6c", weight: 1, fillOpacity: 0.12 }).addTo(layer);
      pin(newest, newest.valid ? (place.dataset.level === "1" ? "p1" : "") : "old", "").addTo(layer);
      bounds.extend([newest.lat, newest.lon]);
    }
    for (const person of data.persons || []) {
      const marker = pin(person, person.level === 1 ? "p1" : "old", person.title);
      if (person.url) marker.on("click", () => location.assign(person.url));
      marker.addTo(layer);
      bounds.extend([person.lat, person.lon]);
    }
    if (words) {
      words.replaceChildren();
      if (newest) {
        const age = document.createElement("span");
        age.dataset.since = newest.at;
        age.dataset.stale = "600000";
        words.append((newest.accuracy_m ? Math.round(newest.accuracy_m) + " m · " : "") + newest.source_word + " · ", age);
        if (!newest.valid) words.append(" · " + place.dataset.invalid);
      } else words.append(place.dataset.none);
      if (data.history === false) words.append(" · " + place.dataset.away);
    }
    if (!fitted && bounds.isValid()) { map.fitBounds(bounds.pad(0.3), { maxZoom: 17 }); fitted = true; }
    place.dataset.drawn = "1";
  }
  async function look() {
    const place = $("map");
    if (!place) { if (map) { map.remove(); map = null; shownFor = null; } return; }
    if (shownFor !== place) {
      if (map) map.remove();
      shownFor = place;
      fitted = false;
      build(place);
    }
    let drawn = false;
    try {
      const answer = await ask(place.dataset.url);
      if (answer.ok) {
        const data = await answer.json();
        if ($("map") !== place) return;
        draw(place, data);
        drawn = true;
      }
    } catch { /* said below; the ages on the map go on */ }
    if ($("map") !== place) return;
    const sign = $("map-fault");
    if (drawn && sign) sign.remove();
    if (!drawn && !sign) {
      const said = document.createElement("p");
      said.id = "map-fault";
      said.className = "refused";
      said.textContent = words.stale;
      place.after(said);
    }
    outline(place).catch(() => {}); // asked again with the next look
  }
  document.addEventListener("DOMContentLoaded", () => { look(); timer = setInterval(look, 10000); });
  document.addEventListener("htmx:afterSettle", (event) => { if (event.detail.target && event.detail.target.id === "work") look(); });
})();
