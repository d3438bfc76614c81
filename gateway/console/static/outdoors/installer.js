// The installer's page works without this script. With it: what is typed survives a reload, a step that cannot be sent is
// tried again until it is, the label is scanned by the camera, and frames and the test press are shown as they arrive.
"use strict";
(() => {
  const bar = document.getElementById("sending");
  const tell = (text) => { bar.textContent = text; bar.hidden = !text; };
  let sending = 0; // steps under way: the bar speaks until the last one arrived
  const wait = (ms) => new Promise((done) => {
    const over = new AbortController();
    const end = () => { clearTimeout(timer); over.abort(); done(); };
    const timer = setTimeout(end, ms);
    addEventListener("online", end, { signal: over.signal });
  });

  // ---- drafts -------------------------------------------------------------------------------------------------------
  const keyOf = (form) => `carebell:${new URL(form.action).pathname}:${form.elements.person_id?.value ?? ""}`;
  const isTyped = (field) => field.name && !["hidden", "submit", "button"].includes(field.type);
  function keep(form) {
    const typed = [...form.elements].filter(isTyped).map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]);
    try { localStorage.setItem(keyOf(form), JSON.stringify(Object.fromEntries(typed))); } catch { /* private mode */ }
  }
  function restore(form) {
    let typed = {};
    try { typed = JSON.parse(localStorage.getItem(keyOf(form)) ?? "{}"); } catch { return; }
    for (const field of [...form.elements].filter(isTyped)) {
      if (!(field.name in typed)) continue;
      if (field.type === "checkbox") field.checked = typed[field.name]; else field.value = typed[field.name];
    }
  }
  const forget = (form) => { try { localStorage.removeItem(keyOf(form)); } catch { /* as above */ } };

  // ---- sending ------------------------------------------------------------------------------------------------------
  const LATER = new Set([408, 429]);
  async function post(form) {
    const button = form.querySelector("button:not([type=button])");
    const problem = form.querySelector(".problem");
    const body = new URLSearchParams(new FormData(form));
    if (button.disabled) return;
    button.disabled = true;
    sending += 1;
    problem.hidden = true;
    for (let pause = 1000; ; pause = Math.min(pause * 2, 30000)) {
      tell("正在发送… sending");
      try {
        const limit = AbortSignal.timeout(20000);
        const answer = await fetch(form.action, { method: "POST", body, signal: limit });
        if (answer.status < 500 && !LATER.has(answer.status)) { await arrived(form, answer); break; }
      } catch { /* no network, or an answer that is none of ours: below */ }
      tell("还没有送达，正在重试 not sent yet, trying again");
      await wait(pause);
    }
    button.disabled = false;
    sending -= 1;
    if (!sending) tell("");
  }
  async function arrived(form, answer) {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (answer.ok) {
      if (!page.querySelector("main")) throw new Error("not a page of ours");
      forget(form);
      const here = new URL(answer.url);
      if (answer.redirected) history.pushState(null, "", here.pathname + here.hash); // what was posted to is no page
      show(page);
      document.getElementById(here.hash.slice(1))?.scrollIntoView();
      return;
    }
    const problem = form.querySelector(".problem");
    problem.textContent = page.querySelector(".problem")?.textContent ?? page.querySelector("main")?.textContent ?? `${answer.status}`;
    problem.hidden = false;
  }
  function show(page) {
    document.querySelector("main").replaceWith(page.querySelector("main"));
    document.title = page.title;
    begin();
    dispatchEvent(new Event("carebell:shown"));
  }

  // ---- scanning -----------------------------------------------------------------------------------------------------
  async function scan() {
    const video = document.getElementById("video");
    const camera = document.getElementById("camera");
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    video.srcObject = stream;
    camera.hidden = false;
    await video.play();
    const detector = new BarcodeDetector({ formats: ["qr_code"] });
    while (!camera.hidden && document.contains(camera)) {
      const [found] = await detector.detect(video).catch(() => []);
      if (found) {
        const field = document.getElementById("code");
        field.value = found.rawValue.slice(0, 200);
        camera.hidden = true;
        field.form.requestSubmit();
      }
      await new Promise((done) => setTimeout(done, 200));
    }
    stream.getTracks().forEach((track) => track.stop());
  }

  // ---- live ---------------------------------------------------------------------------------------------------------
  const WORDS = { sos: "SOS 求助", service_call: "生活求助", fall: "跌倒", test: "测试" };
  const ago = (at, now) => { const s = Math.max(0, Math.round((now - new Date(at)) / 1000)); return s < 90 ? `${s} s` : `${Math.round(s / 60)} min`; };
  const set = (id, text) => { const at = document.getElementById(id); if (at && at.textContent !== text) at.textContent = text; };
  function draw(told) {
    const now = new Date(told.now);
    set("heard", told.heard_at ? `${ago(told.heard_at, now)} 前 ago` : "未知 unknown");
    const { rssi_dbm: rssi, battery_percent: battery } = told.values;
    set("rssi", rssi ? `${rssi.value} dBm · ${ago(rssi.at, now)}` : "未知 unknown");
    set("battery", battery ? `${battery.value} % · ${ago(battery.at, now)}` : "未知 unknown");
    document.getElementById("frames").replaceChildren(...told.frames.map((frame) => {
      const line = document.createElement("li");
      const said = [...frame.signals.map((name) => WORDS[name] ?? name), ...frame.measurements];
      line.textContent = `${ago(frame.at, now)} · ${frame.transport} · ${frame.fault ? "无法读取 unreadable" : said.join(" ") || "—"}`;
      return line;
    }));
    const state = document.getElementById("test-state");
    if (state && state.dataset.state === "waiting" && told.test.state !== "waiting") return true;
    return false;
  }
  async function follow(box) {
    while (document.contains(box)) {
      try {
        const answer = await fetch(box.dataset.live, { signal: AbortSignal.timeout(10000) });
        if (answer.status === 401) return location.reload();
        if (!answer.ok) throw new Error(String(answer.status));
        if (draw(await answer.json()) && document.contains(box)) {
          const page = await fetch(location.pathname, { signal: AbortSignal.timeout(20000) });
          const parsed = new DOMParser().parseFromString(await page.text(), "text/html");
          const fresh = parsed.getElementById("test");  // only this step: what is typed elsewhere stays
          if (page.ok && fresh) { document.getElementById("test").replaceWith(fresh); wire(fresh); }
          const open = parsed.querySelector("#done ul");
          if (page.ok && open) document.querySelector("#done ul")?.replaceWith(open);
        }
        box.classList.remove("stale");
      } catch { box.classList.add("stale"); set("heard", "没有网络 no network"); }
      await wait(document.hidden ? 10000 : 2000);
    }
  }

  function wire(root) {
    for (const form of root.querySelectorAll("form[data-send]")) {
      restore(form);
      form.addEventListener("input", () => keep(form));
      form.addEventListener("submit", (event) => { event.preventDefault(); post(form); });
    }
  }
  function begin() {
    wire(document);
    const button = document.getElementById("scan");
    if (button && "BarcodeDetector" in window && navigator.mediaDevices) {
      button.hidden = false;
      button.addEventListener("click", () => scan().catch(() => tell("不能使用相机，请输入代码 no camera: type the code")));
    }
    const code = document.getElementById("code");
    if (code && location.pathname === "/installer" && location.hash.length > 8) {
      code.value = location.hash.slice(1);
      history.replaceState(null, "", "/installer");
    }
    const box = document.querySelector("[data-live]");
    if (box) follow(box);
  }
  addEventListener("popstate", () => location.reload());
  begin();
})();
