// The page comes up: every part is started once and told what it shows.

import { Refused, call } from "./api.js";
import * as axes from "./axes.js";
import { LABELS, colour } from "./classes.js";
import { alarm, byId, h } from "./dom.js";
import * as edits from "./edits.js";
import * as eventFiles from "./event_files.js";
import * as eventList from "./event_list.js";
import * as eventPointing from "./event_pointing.js";
import * as eventView from "./event_view.js";
import * as facts from "./facts.js";
import * as history from "./history.js";
import * as imports from "./imports.js";
import * as inspector from "./inspector.js";
import * as keys from "./keys.js";
import * as lanes from "./lanes.js";
import * as learn from "./learn.js";
import * as listing from "./listing.js";
import * as live from "./live.js";
import * as menus from "./menus.js";
import * as models from "./models.js";
import * as overview from "./overview.js";
import * as pictureSettings from "./picture_settings.js";
import * as player from "./player.js";
import * as pointing from "./pointing.js";
import * as comparison from "./comparison.js";
import * as readers from "./readers.js";
import * as recordings from "./recordings.js";
import * as runs from "./runs.js";
import * as saving from "./saving.js";
import * as screens from "./screens.js";
import * as sessions from "./sessions.js";
import * as spectrogram from "./spectrogram.js";
import { update } from "./state.js";
import * as table from "./table.js";
import * as uploads from "./uploads.js";
import * as views from "./views.js";

function theme() {
  const choice = byId("theme");
  choice.value = localStorage.getItem("rales-theme") ?? "auto";
  const apply = () => {
    document.documentElement.dataset.theme = choice.value;
    localStorage.setItem("rales-theme", choice.value);
  };
  const repaint = () => {
    spectrogram.draw();
    overview.recolour();
  };
  apply();
  choice.addEventListener("change", () => {
    apply();
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
}

function legend() {
  byId("classes").replaceChildren(...LABELS.names.map((name) =>
    h("li", {}, colour(h("span", { className: "badge" }, LABELS.letters(name)), name), ` ${LABELS.words(name)}`)));
}

// What a click or a key began and could not be done is said, also where nobody waits for it
addEventListener("unhandledrejection", (event) => {
  const { reason } = event;
  if (reason?.name === "AbortError") return;
  if (reason instanceof Refused) event.preventDefault(); // anything else is a fault of the page, which the console is told too
  alarm(reason?.message ?? `${reason}`);
});
theme();
legend();
player.start();
spectrogram.start();
axes.start();
lanes.start();
overview.start();
eventView.start();
eventPointing.start();
pointing.start();
pictureSettings.start();
table.start();
inspector.start();
eventList.start();
eventFiles.start();
saving.start(recordings.reopen);
recordings.start();
facts.start();
listing.start();
edits.start(recordings.openRecording);
history.start();
views.start({ runs: runs.show, readers: comparison.show, learn: learn.show });
readers.start();
comparison.start();
learn.start();
keys.start();
menus.start();
screens.start();
imports.start();
uploads.start(sessions.ready);
live.start(sessions.ready);
try {
  update({ limits: await call("GET", "/limits") });
  await models.start();
  await Promise.all([saving.sendLeft(), facts.sendLeft()]);
  await sessions.start();
} catch (error) {
  alarm(error.message);
}
document.documentElement.dataset.ready = "yes";
