// What `make lint` must refuse in the page's scripts: a line below that passes is an error (@ts-expect-error).

import { bytes, call, download, eventsOf, sendLast, showIn } from "../src/rales/web/static/js/api.js";

const id = `${Math.random()}`;

call("POST", "/annotations", { recording: id, cycles: [{ start_s: 0, end_s: 1, label: "normal" }] });
// @ts-expect-error: no such field, and one is missing
call("POST", "/annotations", { recordng: id, cycles: [] });
// @ts-expect-error: no such field
call("PATCH", `/recordings/${id}`, { reviewd: true });
// @ts-expect-error: nothing is sent
call("PATCH", `/recordings/${id}`);
// @ts-expect-error: this takes nothing
call("GET", "/sessions", { name: "Ward" });
// @ts-expect-error: no such method
call("DELETE", "/limits");
// @ts-expect-error: no such path
call("PATCH", `/recordngs/${id}`, { reviewed: true });
// @ts-expect-error: no such path, however it ends
call("GET", `/sessions/${id}/recordingz?${id}`);
// @ts-expect-error: one of the two is none
call("GET", `${/** @type {"/example" | "/recordings/x"} */ (id)}/facts`);
// @ts-expect-error: no such path
bytes(`/recordings/${id}/sound`);
// @ts-expect-error: that is no GET
download(`/live/${id}/keep`);
// @ts-expect-error: no such field
sendLast("/annotations", { recording: id, cycles: [], bse: 0 });
// @ts-expect-error: this takes no record
sendLast(`/live/${id}/sound?at=0`, { at: 0 });
// @ts-expect-error: no such path
eventsOf(`/sessions/${id}/change?since=`);
// @ts-expect-error: no such path
showIn(document.createElement("iframe"), "/run/report?name=");
