"use strict";

const toolbar = document.querySelector(".toolbar");
const video = document.querySelector(".video");
const frames = video ? JSON.parse(video.dataset.frames) : null;
const FRAMES_PER_SECOND = 12;

function splitOf(slider) {
  return slider.closest(".compare").style;
}

function moveSplit(slider) {
  const sliders = toolbar.together.checked ? document.querySelectorAll(".split") : [slider];
  for (const each of sliders) {
    each.value = slider.value;
    splitOf(each).setProperty("--split", `${slider.value}%`);
  }
}

/* Shows the chosen kinds. A comparison without the chosen image shows the render. */
function showKinds() {
  for (const compare of document.querySelectorAll(".compare")) {
    for (const [side, layer, tag] of [["left", ".under", ".at-left"], ["right", ".over", ".at-right"]]) {
      const image = compare.querySelector(layer);
      const kind = image.dataset[toolbar[side].value] ? toolbar[side].value : "raw";
      if (image.getAttribute("src") !== image.dataset[kind]) image.src = image.dataset[kind];
      image.alt = `${compare.parentElement.querySelector("h3, h2").textContent}, ${kind}`;
      compare.querySelector(tag).textContent = kind;
    }
  }
}

function sortViews() {
  const descending = toolbar.order.value.startsWith("-");
  const key = toolbar.order.value.replace("-", "");
  const parent = document.querySelector(".views");
  const views = [...parent.children];
  views.sort((a, b) => (descending ? b : a).dataset[key] - (descending ? a : b).dataset[key]);
  parent.append(...views);
}

document.addEventListener("input", (event) => {
  if (event.target.classList.contains("split")) moveSplit(event.target);
  if (event.target.name === "size") document.documentElement.style.setProperty("--width", `${event.target.value}px`);
  if (event.target.name === "frame") showFrame(Number(event.target.value));
});

toolbar.addEventListener("submit", (event) => event.preventDefault());
toolbar.addEventListener("change", (event) => {
  if (event.target.name === "order") sortViews();
  if (event.target.name === "left" || event.target.name === "right") showKinds();
});

document.addEventListener("keydown", (event) => {
  const place = /^Digit([1-9])$/.exec(event.code);
  if (!place || event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
  const select = event.shiftKey ? toolbar.right : toolbar.left;
  const option = select.options[place[1] - 1];
  if (!option) return;
  select.value = option.value;
  showKinds();
  event.preventDefault();
});

function showFrame(index) {
  for (const image of video.querySelectorAll(".compare img")) {
    for (const kind of Object.keys(frames)) image.dataset[kind] = frames[kind][index];
  }
  video.querySelector("[name=frame]").value = index;
  const count = frames.raw.length;
  video.querySelector("output").textContent = `${index + 1} / ${count}`;
  showKinds();
}

if (video) {
  const button = video.querySelector("[name=play]");
  const current = video.querySelector("[name=frame]");
  let timer = null;
  let preloaded = [];
  button.addEventListener("click", () => {
    if (timer === null) {
      if (!preloaded.length) preloaded = Object.values(frames).flat().map((file) => Object.assign(new Image(), { src: file }));
      timer = setInterval(() => showFrame((Number(current.value) + 1) % frames.raw.length), 1000 / FRAMES_PER_SECOND);
    } else {
      clearInterval(timer);
      timer = null;
    }
    button.setAttribute("aria-pressed", String(timer !== null));
    button.textContent = timer === null ? "Play" : "Pause";
  });
}

/* Browsers may keep form values over a reload, so the page is set up from them. */
for (const slider of document.querySelectorAll(".split")) splitOf(slider).setProperty("--split", `${slider.value}%`);
document.documentElement.style.setProperty("--width", `${toolbar.size.value}px`);
showKinds();
