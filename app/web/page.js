// The parts of the page that are ours, in three functions; app/web/page.py attaches each to a gr.HTML. `element` is its element, `props.value`
// what the server sent, `watch` calls back when that changes. What the server sends are data (a file's name is anybody's text): they become
// text nodes, never markup. The parts talk by events on `document`: "page:segments", "page:seek" and "page:time".

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
const percent = (share) => `${Math.round(100 * share)} %`;
const tell = (name, detail) => document.dispatchEvent(new CustomEvent(`page:${name}`, { detail }));

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// value: {kind: "idle" | "good" | "bad", text}
function status(element, props, watch) {
  const show = () => {
    const line = make("p", `status ${props.value.kind}`, props.value.text);
    line.setAttribute("role", props.value.kind === "bad" ? "alert" : "status");
    element.querySelector(".slot").replaceChildren(line);
  };
  watch("value", show);
  show();
}

// value: null, or {key, name, video (address), times (T+1), scores (T), classes: [{name, values (T)}]}; prop `copy`: address of an annotated copy
function player(element, props, watch) {
  const find = (name) => element.querySelector(name);
  const [video, curve, svg] = [find("video"), find(".curve"), find("svg")];
  let [data, found, time, strips] = [null, null, 0, []];

  const length = () => data.times[data.times.length - 1];
  const across = (seconds) => (length() ? (1000 * seconds) / length() : 0); // of 1000
  const up = (score) => 98 - 96 * score; // of 100, downwards

  function snippet() {
    let [low, high] = [0, data.scores.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (data.times[middle] <= time) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function load() {
    data = props.value;
    find(".empty").hidden = Boolean(data);
    find(".shown").hidden = !data;
    found = null;
    video.pause();
    if (!data) return video.removeAttribute("src");
    find(".broken").hidden = true;
    find(".stage").hidden = false;
    video.src = data.video;
    video.setAttribute("aria-label", data.name);
    find(".name").textContent = data.name;
    strips = data.classes.map(strip);
    find(".classes").replaceChildren(...strips.map((one) => one.row));
    find("details").hidden = !strips.length;
    drawCurve();
    drawTicks();
    time = 0;
    moved();
    element.scrollIntoView({ block: "nearest" });
  }

  function drawTicks() {
    if (!data) return;
    const most = Math.max(2, svg.clientWidth / 64);
    const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200].find((one) => length() / one <= most) || length() || 1;
    const made = [];
    for (let at = 0; across(at) <= 960; at += step) {
      const tick = make("span", "", clock(at));
      tick.style.left = `${across(at) / 10}%`;
      made.push(tick);
      if (!length()) break;
    }
    find(".ticks").replaceChildren(...made);
  }

  // Highest value of each of at most 1000 columns, so that a short peak in a long video stays visible.
  function strip({ name, values }) {
    const [row, label, canvas, value] = [make("div", "row"), make("span", "label", name), make("canvas"), make("span", "value")];
    label.title = name;
    [canvas.width, canvas.height] = [Math.min(1000, 2 * values.length), 1];
    const pen = canvas.getContext("2d");
    const edge = (snippet) => Math.round((data.times[snippet] / length()) * canvas.width);
    const columns = new Float32Array(canvas.width);
    values.forEach((one, number) => {
      for (let x = Math.min(edge(number), canvas.width - 1); x < Math.max(edge(number + 1), edge(number) + 1); x++) columns[x] = Math.max(columns[x], one);
    });
    pen.fillStyle = getComputedStyle(svg).getPropertyValue("--score");
    columns.forEach((one, x) => {
      pen.globalAlpha = one;
      pen.fillRect(x, 0, 1, 1);
    });
    row.append(label, canvas, value);
    return { row, value, values };
  }

  function drawCurve() {
    svg.replaceChildren();
    for (const one of found ? found.segments : []) {
      const place = { x: across(one.start), width: Math.max(across(one.end - one.start), 1) };
      svg.append(draw("rect", { class: "shade", y: 0, height: 100, ...place }), draw("rect", { class: "bar", y: 96, height: 4, ...place }));
    }
    for (const level of [0, 0.5, 1]) svg.append(draw("line", { class: "grid", x1: 0, x2: 1000, y1: up(level), y2: up(level) }));
    const path = data.scores.map((score, number) => `V${up(score).toFixed(2)}H${across(data.times[number + 1]).toFixed(2)}`).join("");
    svg.append(draw("path", { class: "line", d: `M0 ${up(data.scores[0])}${path}` }));
    if (found) svg.append(draw("line", { class: "threshold", x1: 0, x2: 1000, y1: up(found.threshold), y2: up(found.threshold) }));
  }

  function moved() {
    const now = snippet();
    for (const cursor of element.querySelectorAll(".cursor")) cursor.style.left = `${Math.min(across(time) / 10, 100)}%`;
    const said = `${clock(time)} of ${clock(length())}, score ${data.scores[now].toFixed(2)}`;
    find(".now").textContent = said;
    curve.setAttribute("aria-valuemax", length().toFixed(1));
    curve.setAttribute("aria-valuenow", time.toFixed(1));
    curve.setAttribute("aria-valuetext", said);
    const highest = Math.max(...strips.map((one) => one.values[now]));
    for (const { row, value, values } of strips) {
      value.textContent = percent(values[now]);
      row.classList.toggle("highest", values[now] === highest);
    }
    tell("time", time);
  }

  function seek(seconds) {
    if (!data) return;
    time = Math.max(0, Math.min(seconds, length()));
    if (video.readyState) video.currentTime = time;
    moved();
  }

  function follow() {
    if (!data || !video.readyState) return;
    time = video.currentTime;
    moved();
    if (!video.paused && !video.ended) requestAnimationFrame(follow);
  }

  for (const name of ["play", "timeupdate", "seeked"]) video.addEventListener(name, follow);
  video.addEventListener("loadedmetadata", () => {
    if (!video.videoWidth) refuse(); // it can play the sound alone
    else if (time) video.currentTime = time; // sought before it had loaded
  });
  video.addEventListener("error", () => data && video.getAttribute("src") && refuse());

  function refuse() {
    const refused = video.getAttribute("src");
    video.removeAttribute("src");
    video.load();
    find(".stage").hidden = true;
    find(".broken").hidden = false;
    if (refused !== props.copy) showCopy();
  }

  function showCopy() {
    if (!props.copy || find(".broken").hidden) return;
    find(".broken").hidden = true;
    find(".stage").hidden = false;
    video.src = props.copy;
  }

  const pointed = (event) => {
    const box = svg.getBoundingClientRect();
    seek(((event.clientX - box.left) / box.width) * length());
  };
  for (const area of [curve, find(".classes")]) {
    area.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      area.setPointerCapture(event.pointerId);
      pointed(event);
    });
    area.addEventListener("pointermove", (event) => area.hasPointerCapture(event.pointerId) && pointed(event));
  }
  curve.addEventListener("keydown", (event) => {
    if (!data || event.ctrlKey || event.metaKey || event.altKey) return;
    const [now, last] = [snippet(), data.scores.length - 1];
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: -10, PageDown: 10, Home: -now, End: last - now }[event.key];
    if (step !== undefined) seek(data.times[Math.max(0, Math.min(now + step, last))]);
    else if (event.key === " " || event.key === "Enter") video.paused ? video.play() : video.pause();
    else return;
    event.preventDefault();
  });

  document.addEventListener("page:seek", (event) => {
    seek(event.detail);
    element.scrollIntoView({ block: "nearest", behavior: "smooth" });
  });
  document.addEventListener("page:segments", (event) => {
    if (!data || event.detail.key !== data.key) return;
    found = event.detail;
    drawCurve();
  });
  find("details").open = matchMedia("(min-width: 641px)").matches; // on a phone they would push the segments far down
  watch("value", load);
  watch("copy", showCopy);
  new ResizeObserver(drawTicks).observe(svg);
  load();
}

// value: null, or {key, threshold, from, highest, segments: [{start, end, label, score, caption}], notes}
function segments(element, props, watch) {
  const slot = element.querySelector(".slot");

  function load() {
    const value = props.value;
    slot.replaceChildren();
    if (!value) return;
    if (value.notes.length) {
      const list = make("ul", "notes");
      list.append(...value.notes.map((note) => make("li", "", note)));
      slot.append(make("h3", "", "Before you trust this"), list);
    }
    const several = value.segments.length === 1 ? "1 segment" : `${value.segments.length} segments`;
    slot.append(make("h3", "", value.segments.length ? several : "Nothing found"));
    const rule = `at the threshold ${value.threshold.toFixed(3)} (${value.from})`;
    if (value.segments.length) slot.append(make("p", "rule", `Found ${rule}. A click goes there.`), table(value.segments));
    else slot.append(make("p", "rule", `No snippet scores as high ${rule.replace("at", "as")}; the highest score is ${value.highest.toFixed(3)}.`));
    setTimeout(() => tell("segments", value)); // after the player has loaded, which may be in the same update
  }

  function table(all) {
    const [frame, made, head, body] = [make("div", "frame"), make("table"), make("tr"), make("tbody")];
    const quoted = all.some((one) => one.caption);
    head.append(...["Time", "Class", "Score", ...(quoted ? ["Caption"] : [])].map((name) => make("th", "", name)));
    all.forEach((one) => {
      const [row, time, button] = [make("tr"), make("td"), make("button", "", `${clock(one.start)} – ${clock(Math.ceil(one.end))}`)];
      button.type = "button";
      Object.assign(row.dataset, { start: one.start, end: one.end });
      time.append(button);
      row.append(time, make("td", "class", one.label), make("td", "score", one.score.toFixed(2)), ...(quoted ? [make("td", "caption", one.caption || "")] : []));
      row.addEventListener("click", () => tell("seek", one.start));
      body.append(row);
    });
    made.append(make("thead"), body);
    made.tHead.append(head);
    frame.append(made);
    return frame;
  }

  document.addEventListener("page:time", (event) => {
    for (const row of slot.querySelectorAll("tbody tr")) {
      row.classList.toggle("running", event.detail >= Number(row.dataset.start) && event.detail < Number(row.dataset.end));
    }
  });
  watch("value", load);
  load();
}
