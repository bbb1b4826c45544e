"""The page where the service is away, refuses, or has no longer what the page asks about: its scripts in node."""

from typing import Any

import pytest

from tests.scripted import script

# What these scripts use of a browser: elements by id, storage, frames and timers that wait until a test runs them, and
# a service that answers each request as `service` says, {"GET /path": [status, body] or a function that gives it}.
WORLD = """
class Element extends EventTarget {
  children = []; dataset = {}; clientWidth = 100; clientHeight = 50; value = "";
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  showModal() { this.returnValue = "yes"; queueMicrotask(() => this.dispatchEvent(new Event("close"))); }
  getContext() { return new Proxy({}, { get: () => () => {} }); }
  setAttribute() {}
  removeAttribute() {}
}
class Deaf extends EventTarget { observe() {} postMessage() {} close() {} }
class Kept {
  getItem(key) { return this[key] ?? null; }
  setItem(key, value) { this[key] = value; }
  removeItem(key) { delete this[key]; }
}
const elements = new Map(), later = [], frames = [], asked = [], service = {};
const element = (id) => elements.get(id) ?? elements.set(id, new Element()).get(id);
const world = {
  window: globalThis, addEventListener() {}, localStorage: new Kept(), Audio: Deaf, Worker: Deaf, EventSource: Deaf,
  ResizeObserver: Deaf, requestAnimationFrame: (work) => frames.push(work), clearTimeout() {},
  setTimeout: (work, wait_ms) => later.push({ work, wait_ms }),
  document: {
    getElementById: element, createElement: () => new Element(), querySelector: () => null, addEventListener() {},
  },
  fetch: async (path, { method = "GET" }) => {
    const request = `${method} ${path}`;
    asked.push(request);
    const found = service[request] ?? service[request.split("?")[0]];
    const [status, body] = typeof found === "function" ? await found() : found;
    return new Response(JSON.stringify(body), { status });
  },
};
for (const [name, value] of Object.entries(world)) Object.defineProperty(globalThis, name, { value });
const settled = async () => { for (let i = 0; i < 5; i += 1) await new Promise(setImmediate); };
const after = async (wait_ms) => {
  for (const { work } of later.splice(0).filter((each) => each.wait_ms === wait_ms)) work();
  await settled();
};
const said = () => element("alert").children[0]?.children[0] ?? "";
"""


@pytest.mark.parametrize(
    ("module", "draft", "service"),
    [
        (
            "facts.js",
            {"rales-facts-a": {"said": {"patient": "7"}, "was": {"patient": ""}, "base": 0}},
            {"POST /recordings/a/facts": [409, {"detail": "later"}], "GET /recordings/a": [200, {"patient": ""}]},
        ),
        (
            "facts.js",
            {"rales-facts-a": {"said": {"patient": "7"}, "was": {"patient": ""}, "base": 0}},
            {"POST /recordings/a/facts": [404, {"detail": "gone"}]},
        ),
        (
            "saving.js",
            {"rales-unsaved-a": {"cycles": [], "events": [], "base": 0}},
            {"POST /annotations": [201, {"revision": 1, "facts": {"id": "a"}}]},
        ),
        (
            "saving.js",
            {"rales-unsaved-a": {"cycles": [], "events": [], "base": 0}},
            {"POST /annotations": [500, {"detail": "no memory"}]},
        ),
    ],
)
def test_what_is_removed_while_it_is_saved_leaves_no_draft(
    module: str, draft: dict[str, Any], service: dict[str, Any]
) -> None:
    work = """async ({ draft, answers }) => {
      for (const [key, value] of Object.entries(draft))
        localStorage.setItem(key, JSON.stringify({ ...value, at_ms: Date.now() }));
      const last = Object.keys(answers).at(-1);
      const remove = () => {
        page.dismiss("a");
        for (const request in service) delete service[request]; // who asks further is not answered
        return answers[last];
      };
      Object.assign(service, answers, { [last]: remove });
      await page.sendLeft();
      return { asked, kept: Object.keys(localStorage), said: said() };
    }"""
    with script(module, work, WORLD) as sent:
        assert sent({"draft": draft, "answers": service}) == {"asked": list(service), "kept": [], "said": ""}


@pytest.mark.parametrize(
    ("module", "key", "request_"),
    [
        ("facts.js", "rales-facts-a", "POST /recordings/a/facts"),
        ("saving.js", "rales-unsaved-a", "POST /annotations"),
    ],
)
def test_what_this_service_does_not_have_is_kept_without_a_word(module: str, key: str, request_: str) -> None:
    """What the page was closed over may belong to a service with another folder."""
    work = """async ({ key, request_ }) => {
      const draft = { said: { note: "7" }, was: { note: "" }, cycles: [], events: [], base: 0, at_ms: Date.now() };
      localStorage.setItem(key, JSON.stringify(draft));
      service[request_] = [404, { detail: "gone" }];
      await page.sendLeft();
      return { asked, kept: Object.keys(localStorage), said: said() };
    }"""
    with script(module, work, WORLD) as sent:
        assert sent({"key": key, "request_": request_}) == {"asked": [request_], "kept": [key], "said": ""}


@pytest.mark.parametrize("known", ["none", "one", "one, and the list is loaded anew"])
def test_a_session_goes_with_all_its_drafts(known: str) -> None:
    """Also with those of recordings that the list has not heard of yet when its button is pressed."""
    work = """async (known) => {
      const drafts = ["rales-facts-a", "rales-facts-b", "rales-unsaved-b 1 Anna", "rales-facts-other"];
      for (const key of drafts) localStorage.setItem(key, "{}");
      const [{ state, update }, listing] = [await use("state.js"), await use("listing.js")];
      const part = (id, next) => [200, { recordings: [{ id, changed: 1 }], next, mark: "", begun: 0, taken: null }];
      const [first, rest, again] = [Promise, Promise, Promise].map((made) => made.withResolvers());
      const come = async (asked, answer) => { asked.resolve(answer); await settled(); };
      service["GET /sessions/s/recordings?after="] = () => first.promise;
      service["GET /sessions/s/recordings?after=a"] = () => rest.promise;
      service["GET /sessions"] = () => new Promise(() => {});
      service["DELETE /sessions/s"] = [200, null];
      update({ sessions: [{ id: "s", name: "Ward" }], session: "s" });
      page.start();
      listing.refresh();
      if (known !== "none") await come(first, part("a", "a"));
      element("session-remove").dispatchEvent(new Event("click"));
      await settled();
      await come(first, part("a", "a"));
      if (known.endsWith("anew")) {
        service["GET /sessions/s/recordings?after=a"] = () => again.promise;
        listing.refresh();
        await settled();
      }
      await come(rest, part("b", null));
      await come(again, part("b", null));
      return { title: element("ask-title").textContent, kept: Object.keys(localStorage) };
    }"""
    with script("sessions.js", work, WORLD) as removed:
        title = "Remove Ward with its 2 recordings and annotations?"
        assert removed(known) == {"title": title, "kept": ["rales-facts-other"]}


def test_a_list_whose_last_part_is_empty_is_the_whole_list() -> None:
    """As that of a session of exactly as many recordings as its parts hold."""
    work = """async () => {
      const { state, update } = await use("state.js");
      const part = (ids, next) => [
        200, { recordings: ids.map((id) => ({ id, changed: 1 })), next, mark: "", begun: 0, taken: null },
      ];
      service["GET /sessions/s/recordings?after="] = part(["a", "b"], "b");
      service["GET /sessions/s/recordings?after=b"] = part([], null);
      update({ session: "s" });
      await page.refresh();
      await page.whole();
      return [state.recordings.map(({ id }) => id), state.whole];
    }"""
    with script("listing.js", work, WORLD) as listed:
        assert listed(None) == [["a", "b"], True]


def test_another_session_that_was_opened_meanwhile_stays() -> None:
    """Whoever presses Remove, and chooses another session before the list is there, has meant the one before."""
    work = """async () => {
      const { state, update } = await use("state.js");
      const listing = await use("listing.js");
      const part = { recordings: [], next: null, mark: "", begun: 0, taken: null };
      const first = Promise.withResolvers();
      service["GET /sessions"] = () => new Promise(() => {});
      service["GET /sessions/s/recordings"] = () => first.promise;
      service["GET /sessions/t/recordings"] = [200, part];
      update({ sessions: [{ id: "s", name: "Ward" }, { id: "t", name: "Clinic" }], session: "s" });
      page.start();
      listing.refresh();
      element("session-remove").dispatchEvent(new Event("click"));
      update({ session: "t" });
      await listing.refresh();
      first.resolve([200, part]);
      await settled();
      return [element("ask-title").textContent ?? "", asked.filter((each) => each.startsWith("DELETE"))];
    }"""
    with script("sessions.js", work, WORLD) as left:
        assert left(None) == ["", []]


def test_a_job_is_watched_while_the_service_is_away_and_no_longer_than_it_answers() -> None:
    work = """async (statuses) => {
      const told = [];
      for (const status of statuses) {
        const body = { status: "running", kind: "train", session_name: "Ward", phase: "prepare", detail: `${status}` };
        service["GET /learning"] = status ? [status, body] : () => { throw new TypeError("away"); };
        await (told.length ? after(1000) : page.show());
        const title = !element("learn-running").hidden && element("learn-job-title").textContent;
        told.push([title, asked.length, element("learn-progress-text").textContent, said()]);
      }
      return told;
    }"""
    at_work, away = "Preparing the sound …", "The service does not answer; it is asked again …"
    with script("learn.js", work, WORLD) as watched:
        told = watched([200, 0, 502, 0, 200, 0, 200, 401, 200])
    titles, looks, words, alarms = map(list, zip(*told, strict=True))
    assert titles == ["The model learns from Ward"] * 9
    assert looks == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert words == [at_work, at_work, away, away, *[at_work] * 5]
    assert alarms == [*[""] * 7, "401", "401"]


def test_a_picture_that_does_not_come_is_not_asked_for_with_every_frame() -> None:
    work = """async () => {
      const { state, update } = await use("state.js");
      service["GET /recordings/a/spectrogram"] = [500, { detail: "no memory" }];
      update({ current: { id: "a" }, picture: { preset: "model", colours: "magma" } });
      page.load(new Int16Array(100), 16000);
      const told = [];
      for (let frame = 0; frame < 9; frame += 1) {
        if (frame === 6) await after(5000);
        page.draw();
        frames.splice(0).forEach((paint) => paint());
        await settled();
        told.push(asked.length);
      }
      return { told, said: said() };
    }"""
    with script("spectrogram.js", work, WORLD) as drawn:
        assert drawn(None) == {"told": [1] * 6 + [2] * 3, "said": "no memory"}
