// A moving picture is an animated PNG; its alt text begins with "Animation". Here it gets a button that stops it and
// a slider that steps through its frames. Whoever prefers reduced motion sees its first frame, which holds the result.
(() => {
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // The frames, as {image, milliseconds}; the first alone where a browser cannot take the file apart, or may not read it.
  const framesOf = async image => {
    if (!window.ImageDecoder || location.protocol == "file:") return [{ image, milliseconds: Infinity }];
    const data = await (await fetch(image.src)).arrayBuffer();
    const decoder = new ImageDecoder({ data, type: "image/png" });
    await decoder.tracks.ready;
    const frames = [];
    for (let frameIndex = 0; frameIndex < decoder.tracks.selectedTrack.frameCount; frameIndex++) {
      const { image: frame } = await decoder.decode({ frameIndex });
      frames.push({ image: await createImageBitmap(frame), milliseconds: frame.duration / 1000 });
      frame.close();
    }
    return frames;
  };

  const control = async image => {
    await image.decode();
    const frames = await framesOf(image), steps = frames.length > 1;
    const canvas = document.createElement("canvas"), bar = document.createElement("div");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", image.alt);
    bar.className = "moving";
    const button = bar.appendChild(document.createElement("button"));
    button.type = "button";
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: 0, max: frames.length - 1, value: 0 });
    slider.setAttribute("aria-label", "Frame");
    if (steps) bar.append(slider);
    image.after(canvas, bar);

    let playing = !still.matches, timer;
    const show = () => {
      clearTimeout(timer);
      // The file begins with the last frame: on the slider it comes last as well, where time has it.
      const at = frames[(Number(slider.value) + 1) % frames.length];
      canvas.getContext("2d").drawImage(at.image, 0, 0);
      canvas.hidden = playing && !steps;
      image.hidden = !canvas.hidden;
      button.textContent = playing ? "Stop" : "Play";
      slider.setAttribute("aria-valuetext", `${Number(slider.value) + 1} of ${frames.length}`);
      if (playing && steps) timer = setTimeout(() => move((Number(slider.value) + 1) % frames.length), at.milliseconds);
    };
    const move = to => { slider.value = to; show(); };
    button.onclick = () => { playing = !playing; show(); };
    slider.oninput = () => { playing = false; show(); };
    still.addEventListener("change", () => { playing = !still.matches; show(); });
    move(frames.length - 1);
  };

  addEventListener("DOMContentLoaded", () => document.querySelectorAll("img[alt^='Animation']").forEach(control));
})();
