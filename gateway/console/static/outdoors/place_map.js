// A map without tiles: the site's outline, a grid in metres, where the device is, and home. A tap says where home is.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const METRES = 111320;
  const make = (name, attributes, parent) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent?.append(element);
    return element;
  };
  function begin() {
    const box = document.getElementById("map");
    if (!box || box.firstChild) return;
    const form = box.closest("form");
    const number = (text) => (text === "" || text === undefined || Number.isNaN(Number(text)) ? null : Number(text));
    const field = (name) => form.elements[name];
    const data = box.dataset;
    let centre = [number(data.longitude), number(data.latitude)];
    let scale = 1; // metres for each pixel
    let rings = [];
    const svg = make("svg", { role: "img", "aria-label": "地图 map" }, null);
    const tools = document.createElement("div");
    tools.className = "tools";
    box.append(svg, tools);
    const narrow = () => Math.cos(((centre[1] ?? 0) * Math.PI) / 180);
    const put = (lon, lat) => {
      const { width, height } = svg.getBoundingClientRect();
      return [width / 2 + ((lon - centre[0]) * METRES * narrow()) / scale, height / 2 - ((lat - centre[1]) * METRES) / scale];
    };
    const back = (x, y) => {
      const { width, height } = svg.getBoundingClientRect();
      return [centre[0] + ((x - width / 2) * scale) / (METRES * narrow()), centre[1] - ((y - height / 2) * scale) / METRES];
    };
    function draw() {
      svg.replaceChildren();
      const { width, height } = svg.getBoundingClientRect();
      if (centre[0] === null) {
        make("text", { x: 12, y: 24, class: "scale-text" }, svg).textContent = "还没有位置：用手机定位，或输入坐标 no position yet";
        return;
      }
      const step = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000].find((m) => m / scale >= 48) ?? 100000;
      for (let x = width / 2 % (step / scale); x < width; x += step / scale) make("path", { class: "grid", d: `M${x} 0V${height}` }, svg);
      for (let y = height / 2 % (step / scale); y < height; y += step / scale) make("path", { class: "grid", d: `M0 ${y}H${width}` }, svg);
      for (const ring of rings) make("path", { class: "outline", d: "M" + ring.map(([lon, lat]) => put(lon, lat).map((v) => v.toFixed(1)).join(" ")).join("L") }, svg);
      const device = [number(data.deviceLongitude), number(data.deviceLatitude)];
      if (device[0] !== null) {
        const [cx, cy] = put(...device);
        make("circle", { class: "accuracy", cx, cy, r: (number(data.accuracy) ?? 0) / scale }, svg);
        make("circle", { class: "here", cx, cy, r: 5 }, svg);
      }
      const home = [number(field("longitude").value), number(field("latitude").value)];
      if (home[0] !== null && home[1] !== null && field("datum").value === "wgs84") {
        const [cx, cy] = put(...home);
        make("circle", { class: "home-area", cx, cy, r: (number(field("radius_m").value) ?? 0) / scale }, svg);
        make("text", { class: "home", x: cx, y: cy, "text-anchor": "middle", "dominant-baseline": "central" }, svg).textContent = "⌂";
      }
      make("path", { class: "scale", d: `M12 ${height - 14}v4h${step / scale}v-4` }, svg);
      make("text", { class: "scale-text", x: 12, y: height - 20 }, svg).textContent = step < 1000 ? `${step} m` : `${step / 1000} km`;
    }
    function setHome(lon, lat) {
      field("datum").value = "wgs84";
      field("longitude").value = lon.toFixed(6);
      field("latitude").value = lat.toFixed(6);
      field("latitude").dispatchEvent(new Event("input", { bubbles: true }));
    }
    let grip = null;
    svg.addEventListener("pointerdown", (event) => {
      if (centre[0] === null) return;
      grip = { x: event.clientX, y: event.clientY, centre: [...centre], moved: false };
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      if (!grip) return;
      const [east, south] = [event.clientX - grip.x, event.clientY - grip.y];
      if (!grip.moved && Math.hypot(east, south) < 8) return;
      grip.moved = true;
      centre = [grip.centre[0] - (east * scale) / (METRES * narrow()), grip.centre[1] + (south * scale) / METRES];
      draw();
    });
    svg.addEventListener("pointerup", (event) => {
      if (grip && !grip.moved) {
        const frame = svg.getBoundingClientRect();
        setHome(...back(event.clientX - frame.left, event.clientY - frame.top));
      }
      grip = null;
    });
    const tool = (text, title, act) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.title = title;
      button.ariaLabel = `${text} ${title}`;
      button.addEventListener("click", act);
      tools.append(button);
    };
    tool("+", "放大 closer", () => { scale = Math.max(scale / 2, 0.125); draw(); });
    tool("−", "缩小 further", () => { scale = Math.min(scale * 2, 512); draw(); });
    if (navigator.geolocation) {
      tool("用手机定位", "where the phone is", () => navigator.geolocation.getCurrentPosition(({ coords }) => {
        centre = [coords.longitude, coords.latitude];
        setHome(...centre);
        draw();
      }, () => {}, { enableHighAccuracy: true, timeout: 15000 }));
    }
    form.addEventListener("input", () => {
      const typed = [number(field("longitude").value), number(field("latitude").value)];
      if (typed[0] !== null && typed[1] !== null && field("datum").value === "wgs84") {
        const [x, y] = centre[0] === null ? [-1, -1] : put(...typed);
        const { width, height } = svg.getBoundingClientRect();
        if (x < 0 || y < 0 || x > width || y > height) centre = typed;
      }
      draw();
    });
    function* lines(value) {
      switch (value?.type) {
        case "FeatureCollection": for (const feature of value.features) yield* lines(feature); break;
        case "Feature": yield* lines(value.geometry); break;
        case "LineString": yield value.coordinates; break;
        case "MultiLineString": case "Polygon": yield* value.coordinates; break;
        case "MultiPolygon": for (const polygon of value.coordinates) yield* polygon; break;
      }
    }
    if (data.outline) {
      fetch(data.outline).then((answer) => answer.json()).then((outline) => {
        rings = [...lines(outline)];
        if (centre[0] === null && rings.length) {
          const all = rings.flat();
          const [lons, lats] = [all.map((p) => p[0]), all.map((p) => p[1])];
          const [west, east, south, north] = [Math.min(...lons), Math.max(...lons), Math.min(...lats), Math.max(...lats)];
          centre = [(west + east) / 2, (south + north) / 2];
          while (scale < 512 && (north - south) * METRES / scale > 240) scale *= 2;
        }
        draw();
      }).catch(() => {});
    }
    draw();
  }
  addEventListener("carebell:shown", begin);
  begin();
})();
