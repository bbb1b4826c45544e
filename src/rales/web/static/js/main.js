// The page comes up: every part is started once and told what it shows.

import { call } from "./api.js";
import { LABELS, colour } from "./classes.js";
import { alarm, byId, h } from "./dom.js";
import * as history from "./history.js";
import * as keys from "./keys.js";
import * as models from "./models.js";
import * as player from "./player.js";
import * as recordings from "./recordings.js";
import * as runs from "./runs.js";
import * as saving from "./saving.js";
import * as sessions from "./sessions.js";
import * as spectrogram from "./spectrogram.js";
import { update } from "./state.js";
import * as table from "./table.js";
import * as uploads from "./uploads.js";

function theme() {
  const choice = byId("theme");
  choice.value = localStorage.getItem("rales-theme") ?? "auto";
  const apply = () => {
    document.documentElement.dataset.theme = choice.value;
    localStorage.setItem("rales-theme", choice.value);
  };
  apply();
  choice.addEventListener("change", () => {
    apply();
    player.recolour();
  });
}

function legend() {
  byId("classes").replaceChildren(...LABELS.names.map((name) =>
    h("li", {}, colour(h("span", { className: "badge" }, LABELS.letters(name)), name), ` ${LABELS.words(name)}`)));
  if (LABELS.isIcbhi) return;
  byId("heard-classes").textContent = LABELS.names.join(", ");
  byId("saved-form").textContent = "as a table or as labels for Audacity and Raven";
}

function seeking() {
  byId("picture").addEventListener("click", (event) => {
    const box = byId("picture").getBoundingClientRect();
    player.seek(spectrogram.timeAt((event.clientX - box.left) / box.width));
  });
  byId("sight").addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    player.zoom(Math.min(100, Math.max(0, Number(byId("zoom").value) - Math.sign(event.deltaY) * 5)));
  }, { passive: false });
}

theme();
legend();
player.start(spectrogram.look, spectrogram.setPlayhead);
spectrogram.start();
seeking();
table.start();
saving.start(recordings.reopen);
recordings.start();
history.start();
runs.start();
keys.start();
uploads.start(sessions.ready);
try {
  update({ limits: await call("GET", "/limits") });
  await models.start();
  await saving.sendLeft();
  await sessions.start();
} catch (error) {
  alarm(error.message);
}
document.documentElement.dataset.ready = "yes";
