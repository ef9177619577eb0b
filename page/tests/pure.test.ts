/** The page's pure logic, by Node's own test runner: `npm test`. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { claimsOf, tokenIn } from "../src/claims.ts";
import { ago, clock, inUnits, kindOf, minutes, size, textOf, typeName } from "../src/format.ts";
import { appended, fits, merged, type Sort, type View } from "../src/listing.ts";
import { fragmentOf, placeIn } from "../src/route.ts";
import { events } from "../src/sse.ts";
import { de } from "../src/text/de.ts";
import { en } from "../src/text/en.ts";
import { isSaid, segmentAt } from "../src/transcript.ts";
import { columnsIn, moved, window } from "../src/virtual.ts";
import { FITTED, fitted, panned, zoomed } from "../src/zoom.ts";

const encoded = (claims: object): string => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.c2ln`;

test("a token is found alone, in a link, and nowhere else", () => {
  const token = encoded({ sub: "änne" });
  assert.equal(tokenIn(` ${token}\n`), token);
  assert.equal(tokenIn(`http://127.0.0.1:8080/#token=${token}`), token);
  for (const none of ["", "#/", "#token=", "#token=a.b", "#token=%", "hello there", `#/rooms/${token}/x`]) assert.equal(tokenIn(none), null);
});

test("claims of every shape are read, and nonsense says nothing", () => {
  const claims = claimsOf(encoded({ aud: ["acme"], sub: "änne", scope: "media:read admin", rooms: ["a"], exp: 7 }));
  assert.deepEqual([claims.tenant, claims.subject, [...claims.scopes], claims.rooms, claims.expires], ["acme", "änne", ["media:read", "admin"], ["a"], 7000]);
  assert.deepEqual(claimsOf(encoded({ rooms: "a b", scp: ["x"] })).rooms, ["a", "b"]);
  for (const broken of ["", "a.b.c", encoded([]), encoded({ sub: 1, rooms: 2, exp: "x" })]) assert.equal(claimsOf(broken).subject, "");
});

test("text is read in either order of its bytes, and not cut within a character", () => {
  assert.equal(textOf(Uint8Array.of(0xfe, 0xff, 0, 0x41, 0, 0xfc), "utf-16"), "Aü");
  assert.equal(textOf(Uint8Array.of(0xff, 0xfe, 0x41, 0, 0xfc, 0), "utf-16"), "Aü");
  assert.equal(textOf(new TextEncoder().encode("Aü").slice(0, 2), "utf-8"), "A");
});

test("sizes, lengths and times are written as people read them", () => {
  assert.deepEqual([0, 68, 999, 1000, 141177, 1.5 * 1024 ** 3].map((bytes) => size(bytes)), ["0 bytes", "68 bytes", "999 bytes", "1 KiB", "138 KiB", "1.5 GiB"]);
  assert.deepEqual([68, 1.5 * 1024 ** 3].map((bytes) => size(bytes, "de")), ["68 Byte", "1,5 GiB"]);
  assert.equal(inUnits("52,428,800 bytes do not fit: this tenant stores 10,716,446,720 of 10,737,418,240 bytes"), "50 MiB do not fit: this tenant stores 10 GiB of 10 GiB");
  assert.equal(inUnits("1,200 minutes"), "1,200 minutes");
  assert.deepEqual([0, 7.9, 754, 3723].map(clock), ["0:00", "0:07", "12:34", "1:02:03"]);
  assert.deepEqual([600, 90].map((number) => minutes(number)), ["10 hours", "90 minutes"]);
  const now = Date.parse("2026-05-17T14:00:00Z");
  assert.deepEqual(["2026-05-17T13:59:50Z", "2026-05-17T13:57:00Z", "2026-05-17T11:00:00Z", "2026-05-16T14:00:00Z", "2026-01-02T00:00:00Z"].map((each) => ago(each, now)), ["now", "3 min. ago", "3 hr. ago", "yesterday", "Jan 2, 2026"]);
});

test("a type is one of four kinds and has a short name", () => {
  assert.deepEqual(["image/heic", "video/mp4", "application/mxf", "audio/wav", "application/pdf"].map(kindOf), ["image", "video", "video", "audio", "document"]);
  assert.deepEqual([typeName("application/pdf", "a.PDF"), typeName("image/svg+xml", "drawing"), typeName("audio/x-wav", "a.b.c d")], ["PDF", "SVG", "WAV"]);
  assert.deepEqual([typeName("text/plain", "no extension"), typeName("application/octet-stream", "?")], ["TXT", ""]);
});

const view: View = { scope: "files", kind: null, name: "", sort: "-created" };
const file = (id: string, more: object = {}): never =>
  ({ media_id: id, filename: `${id}.txt`, mime_type: "text/plain", size: id.length, created_at: id, rooms: [], scan_status: "clean", ...more }) as never;
const ids = (list: { media_id: string }[]): string => list.map((each) => each.media_id).join("");

test("a file fits a view by room, kind, name and verdict", () => {
  const one = file("a", { filename: "Küste.jpg", mime_type: "image/jpeg", rooms: ["lobby"] });
  assert.ok(fits(one, { ...view, name: "kuste", kind: "image", scope: { room: "lobby" } }));
  for (const other of [{ name: "x" }, { kind: "audio" as const }, { scope: { room: "team" } }]) assert.ok(!fits(one, { ...view, ...other }));
  assert.ok(!fits(file("a", { scan_status: "infected" }), view));
});

test("what changes elsewhere gets its place in the order", () => {
  const list = [file("d"), file("b")];
  const put = (id: string, sort: Sort, isWhole: boolean): string => ids(merged(sort === "created" ? [...list].reverse() : list, [file(id)], sort, isWhole));
  assert.equal(put("e", "-created", false), "edb");
  assert.equal(put("c", "-created", false), "dcb");
  assert.equal(put("a", "-created", true), "dba");
  assert.equal(put("a", "-created", false), "db", "its page will bring it");
  assert.equal(put("c", "created", true), "bcd");
  const renamed = merged([file("a"), file("b"), file("c")], [file("a", { filename: "z" })], "name", true);
  assert.equal(ids(renamed), "bca");
  const same = merged(list, [file("b", { scan_status: "pending" })], "-created", true);
  assert.deepEqual([ids(same), same[1]!.scan_status], ["db", "pending"]);
});

test("a page brings no file twice", () => {
  assert.equal(ids(appended([file("d"), file("c")], [file("c"), file("b")])), "dcb");
});

test("only rows in sight, and some around them, are drawn", () => {
  assert.equal(columnsIn(1000, 180, 12), 5);
  assert.equal(columnsIn(50, 180, 12), 1);
  assert.deepEqual(window({ columns: 5, row: 100, rows: 2000 }, 10_000, 600, 2), { first: 490, last: 540 });
  assert.deepEqual(window({ columns: 5, row: 100, rows: 3 }, 0, 600, 2), { first: 0, last: 15 });
  assert.deepEqual(window({ columns: 1, row: 50, rows: 0 }, 0, 600, 2), { first: 0, last: 0 });
});

test("keys lead to neighbours and stop at the ends", () => {
  const at = (key: string, index: number, isRtl = false): number => moved(key, index, 20, 5, 2, isRtl);
  assert.deepEqual([at("ArrowRight", 3), at("ArrowRight", 3, true), at("ArrowDown", 3), at("ArrowUp", 3), at("ArrowDown", 17)], [4, 2, 8, 3, 19]);
  assert.deepEqual([at("Home", 7), at("End", 7), at("PageDown", 3), at("x", 7)], [0, 19, 13, 7]);
});

test("a place survives its way through the address", () => {
  const place = { room: "a/b ü", jobs: false, file: "med-1", at: 12.5 };
  assert.deepEqual(placeIn(fragmentOf(place)), place);
  assert.equal(fragmentOf({}), "#/");
  assert.equal(fragmentOf({ jobs: true }), "#/jobs");
  assert.deepEqual(placeIn("#/rooms/%E0%A4%A"), { room: "%E0%A4%A", jobs: false, file: null, at: null });
});

test("zoom keeps the point under the finger, and a picture does not leave its box", () => {
  assert.deepEqual(fitted({ width: 4000, height: 2000 }, { width: 1000, height: 1000 }), { width: 1000, height: 500 });
  assert.deepEqual(fitted({ width: 40, height: 20 }, { width: 1000, height: 1000 }), { width: 40, height: 20 });
  const zoom = zoomed(FITTED, 2, 100, 50);
  assert.deepEqual(zoom, { scale: 2, x: -100, y: -50 });
  assert.deepEqual(zoomed(zoom, 0.1), FITTED);
  const size = { width: 1000, height: 500 };
  assert.deepEqual(panned(zoom, -9999, 9999, size, { width: 1000, height: 1000 }), { scale: 2, x: -500, y: 0 });
});

test("a moment belongs to the segment that is being said", () => {
  const segments = [{ start: 0, end: 1 }, { start: 2, end: 3 }];
  assert.deepEqual([-1, 0, 1.5, 2, 99].map((seconds) => segmentAt(segments, seconds)), [-1, 0, 0, 1, 1]);
  assert.deepEqual([0.5, 1.3, 1.9].map((seconds) => isSaid(segments[0]!, seconds)), [true, true, false]);
});

test("server-sent events are read across chunks", async () => {
  const text = ": still here\nid: 7\n\nevent: scanned\nid: 8\ndata: {\"a\":\ndata: \"ü\"}\n\nretry: 1\n\ndata: cut";
  const bytes = new TextEncoder().encode(text);
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (let at = 0; at < bytes.length; at += 3) controller.enqueue(bytes.slice(at, at + 3));
      controller.close();
    },
  });
  const found = [];
  for await (const event of events(body)) found.push(event);
  assert.deepEqual(found, [
    { type: "message", data: "", id: "7" },
    { type: "scanned", data: '{"a":\n"ü"}', id: "8" },
  ]);
});

test("both languages say everything, and no text is left in the other", () => {
  const same = (Object.keys(en) as (keyof typeof en)[]).filter((key) => typeof en[key] === "string" && en[key] === de[key]);
  assert.deepEqual(same.sort(), ["address", "details", "direction", "filmName", "hash", "name", "pause"]);
  assert.deepEqual(Object.keys(de.kind), Object.keys(en.kind));
  assert.equal(de.keysList.length, en.keysList.length);
});
