import { useSignal, useSignalEffect } from "@preact/signals";
import { useRef } from "preact/hooks";
import { clock, size } from "../format.ts";
import { openFile, place } from "../place.ts";
import { text } from "../text/index.ts";
import * as uploads from "../uploads.ts";
import type { Upload } from "../uploads.ts";
import { Icon } from "./icons.tsx";

export function Uploads() {
  const t = text.value;
  const isFolded = useSignal(false);
  // Else it covers the file that is open.
  useSignalEffect(() => {
    if (place.value.file !== null) isFolded.value = true;
  });
  const all = uploads.uploads.value;
  if (all.length === 0) return null;
  const active = uploads.active.value;
  const needy = uploads.needy.value;
  const paused = all.filter((each) => each.state.value === "paused");
  const title = active.length > 0 ? t.uploading(active.length)
    : needy.some((each) => each.state.value === "lost") ? t.uploadsStopped(needy.length)
    : needy.length > 0 ? t.uploadsRefused(needy.length)
    : paused.length > 0 ? t.state.paused : t.uploaded(all.length);
  const total = all.reduce((sum, each) => sum + each.size, 0);
  const sent = all.reduce((sum, each) => sum + Math.min(each.sent.value, each.size), 0);
  // First the uploads that need their user, then those under way, then those that have ended.
  const ranks: Partial<Record<uploads.State, number>> = { lost: 0, failed: 0, done: 2 };
  const rank = (each: Upload): number => ranks[each.state.value] ?? 1;
  const sorted = [...all].sort((one, other) => rank(one) - rank(other));
  return (
    <section class="uploads" aria-label={t.uploads}>
      <header>
        <h2 aria-live="polite">{title}</h2>
        {active.length > 0 && <button class="plain" aria-label={t.pauseAll} title={t.pauseAll} onClick={() => active.forEach(uploads.pause)}><Icon name="pause" /></button>}
        {active.length === 0 && paused.length > 0 && <button class="plain" aria-label={t.resumeAll} title={t.resumeAll} onClick={() => paused.forEach(uploads.resume)}><Icon name="play" /></button>}
        <button class="plain" aria-expanded={!isFolded.value} aria-label={isFolded.value ? t.expand : t.collapse} onClick={() => (isFolded.value = !isFolded.value)}>
          <span class={isFolded.value ? "fold turned" : "fold"}><Icon name="down" /></span></button>
        {active.length === 0 && paused.length === 0 && <button class="plain" aria-label={t.clearDone} title={t.clearDone} onClick={() => uploads.clear()}><Icon name="close" /></button>}
      </header>
      {active.length + paused.length > 0 && <Bar label={title} part={total === 0 ? 0 : sent / total} />}
      {!isFolded.value && (
        <ul tabIndex={0} aria-label={t.uploads}>
          {/* A row is made anew where it changes its place: Preact moves by `moveBefore`, and Chromium then forgets that
              the row's class changed with it. */}
          {sorted.slice(0, 100).map((each) => <Row key={`${rank(each)} ${each.id}`} upload={each} />)}
        </ul>
      )}
    </section>
  );
}

export function Bar({ label, part, state = "" }: { label: string; part: number; state?: string }) {
  const percent = Math.round(100 * part);
  return (
    <div class={`bar ${state}`} role="progressbar" aria-label={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={percent}>
      <div class="fill" style={{ inlineSize: `${100 * part}%` }} />
    </div>
  );
}

function Row({ upload }: { upload: Upload }) {
  const t = text.value;
  const again = useRef<HTMLInputElement>(null);
  const state = upload.state.value;
  const moves = state === "sending" || state === "waiting";
  const seconds = upload.speed.value > 0 ? (upload.size - upload.sent.value) / upload.speed.value : 0;
  const said = upload.detail.value || t.state[state];
  const verdict = upload.verdict.value;
  return (
    <li class={`upload ${state} ${verdict ?? ""}`} data-state={state}>
      <div class="upload-name">
        {upload.media.value && verdict !== "infected"
          ? <a href={`#/files/${upload.media.value}`} dir="auto" onClick={(event) => {
              event.preventDefault();
              openFile(upload.media.value);
            }}>{upload.name}</a>
          : <span dir="auto">{upload.name}</span>}
        <span class="buttons">
          {(state === "sending" || state === "queued" || state === "waiting") && <button class="plain" aria-label={`${t.pause}: ${upload.name}`} onClick={() => uploads.pause(upload)}><Icon name="pause" /></button>}
          {state === "paused" && <button class="plain" aria-label={`${t.resume}: ${upload.name}`} onClick={() => uploads.resume(upload)}><Icon name="play" /></button>}
          {state === "lost" && <>
            <button class="quiet" onClick={() => again.current?.click()}>{t.chooseAgain}</button>
            <input ref={again} type="file" hidden aria-label={t.chooseAgain} onChange={(event) => uploads.add([...(event.currentTarget.files ?? [])], upload.room)} />
          </>}
          {state === "done" ? <span class="upload-done"><Icon name={verdict ? "warning" : "check"} /></span>
            : <button class="plain" aria-label={`${t.giveUp}: ${upload.name}`} onClick={() => void uploads.giveUp(upload)}><Icon name="close" /></button>}
        </span>
      </div>
      {(moves || state === "paused") && <Bar label={upload.name} part={upload.size === 0 ? 0 : upload.sent.value / upload.size} state={state} />}
      <p class="upload-said">
        {state === "done" ? verdict ? t.scan[verdict] : `${t.state.done} · ${size(upload.size, t.locale)}`
          : moves || state === "paused" ? [t.of(size(upload.sent.value, t.locale), size(upload.size, t.locale)), state === "sending" ? (seconds >= 1 ? t.left(clock(seconds)) : "") : said].filter(Boolean).join(" · ")
          : said}
      </p>
    </li>
  );
}
