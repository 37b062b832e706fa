// The slides of a course: on their page one below the other, or one at a time in the whole window. Then the arrow keys
// turn them, and Escape ends it. Notes are folded away; those that are open are shown, and printed, below their slide.
addEventListener("DOMContentLoaded", () => {
  const slides = [...document.querySelectorAll(".slide")], page = document.documentElement;
  if (!slides.length) return;
  const bar = document.createElement("div"), notes = document.querySelectorAll(".slide .notes");
  bar.className = "slide-bar";
  const button = (text, act, kind = "") => {
    const made = bar.appendChild(document.createElement("button"));
    Object.assign(made, { type: "button", textContent: text, className: kind, onclick: act });
    return made;
  };
  const showing = () => page.classList.contains("showing");
  let at = 0;
  const turn = to => {
    slides[at].classList.remove("shown");
    at = Math.max(0, Math.min(slides.length - 1, to));
    slides[at].classList.add("shown");
    slides[at].scrollTop = 0;
    place.textContent = `${at + 1} of ${slides.length}`;
  };
  const begin = () => {
    page.classList.add("showing");
    turn(Math.max(0, slides.findIndex(slide => slide.getBoundingClientRect().bottom > 60)));
    document.fullscreenEnabled && page.requestFullscreen().catch(() => {});
  };
  const end = () => {
    if (!showing()) return;
    page.classList.remove("showing");
    document.fullscreenElement && document.exitFullscreen();
    slides[at].scrollIntoView();
  };
  button("Show one at a time", begin, "at-rest");
  button("Back", () => turn(at - 1), "in-show");
  const place = bar.appendChild(document.createElement("span"));
  place.className = "in-show";
  button("Next", () => turn(at + 1), "in-show");
  button("End", end, "in-show");
  button("Open or close all notes", () => {
    const open = ![...notes].some(note => note.open);
    for (const note of notes) note.open = open;
  }, "at-rest");
  slides[0].before(bar);

  const steps = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1, Home: -Infinity, End: Infinity };
  addEventListener("keydown", event => {
    if (!showing() || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key == "Escape") end();
    if (!(event.key in steps)) return;
    event.preventDefault();
    turn(at + steps[event.key]);
  });
  document.addEventListener("fullscreenchange", () => document.fullscreenElement || end());
});
