import { signal } from "@preact/signals";
import { asked } from "../actions.ts";
import * as files from "../files.ts";
import { minutes, size } from "../format.ts";
import { underWay } from "../jobs.ts";
import { usage } from "../live.ts";
import { go, place } from "../place.ts";
import { fragmentOf, type Place } from "../route.ts";
import { claims } from "../session.ts";
import { text } from "../text/index.ts";
import { Icon, type IconName } from "./icons.tsx";

/** Whether the side is shown where there is no room for it beside the files. */
export const isSideOpen = signal(false);
/** Rooms that were opened by name in this browser. */
const KEPT = "media-rooms";
const opened = signal<string[]>(JSON.parse(localStorage.getItem(KEPT) ?? "[]") as string[]);

export function openRoom(room: string): void {
  if (!rooms().includes(room)) {
    opened.value = [...opened.value, room].slice(-20);
    localStorage.setItem(KEPT, JSON.stringify(opened.value));
  }
  isSideOpen.value = false;
  go({ room });
  setTimeout(() => document.getElementById("content")?.focus()); // once the dialog has given its focus back
}

export function rooms(): string[] {
  const own = claims.value?.rooms.filter((room) => room !== "*") ?? [];
  const shown = place.value.room === null ? [] : [place.value.room];
  return [...new Set([...own, ...files.seenRooms.value, ...opened.value, ...shown])].sort((one, other) => one.localeCompare(other));
}

function Link({ to, icon, children, count }: { to: Partial<Place>; icon: IconName; children: string; count?: number }) {
  const now = place.value;
  const isHere = (to.room ?? null) === now.room && Boolean(to.jobs) === now.jobs;
  return (
    <a href={fragmentOf(to)} aria-current={isHere ? "page" : undefined} onClick={(event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      isSideOpen.value = false;
      go(to);
    }}>
      <Icon name={icon} /><span dir="auto">{children}</span>{count ? <span class="count">{count}</span> : null}
    </a>
  );
}

export function Side() {
  const t = text.value;
  const running = underWay.value.length;
  return (
    <nav id="side" class={isSideOpen.value ? "side open" : "side"} aria-label={t.navigation}
      onKeyDown={(event) => event.key === "Escape" && (isSideOpen.value = false)}>
      <ul>
        <li><Link to={{}} icon="files">{files.isAdmin.value ? t.everything : t.mine}</Link></li>
        <li><Link to={{ jobs: true }} icon="jobs" count={running}>{t.jobs}</Link></li>
      </ul>
      <h2>{t.rooms}</h2>
      <ul>
        {rooms().map((room) => <li key={room}><Link to={{ room }} icon="room">{room}</Link></li>)}
        <li><button class="plain row" onClick={() => (asked.value = { dialog: "openRoom" })}><Icon name="plus" />{t.openRoom}</button></li>
      </ul>
      <Usage />
    </nav>
  );
}

function Usage() {
  const t = text.value;
  const now = usage.value;
  if (now === null) return null;
  const limit = now.limits.max_storage_mb * 1024 * 1024;
  const used = now.stored_bytes + now.reserved_bytes;
  const share = limit > 0 ? Math.min(1, used / limit) : 1;
  const mostFiles = now.limits.max_files;
  const nearlyFull = share > 0.9 || (mostFiles !== null && now.files > 0.9 * mostFiles);
  const said = t.usageOf(size(used, t.locale), size(limit, t.locale));
  return (
    <details class="usage">
      <summary>
        <span class="usage-title">{t.usage}</span>
        <span class="bar" role="meter" aria-label={t.usage} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(share * 100)} aria-valuetext={said}>
          <span class={share > 0.9 ? "fill full" : "fill"} style={{ inlineSize: `${Math.max(share * 100, used > 0 ? 1 : 0)}%` }} />
        </span>
        <span class="usage-said">{said}</span>
      </summary>
      <ul>
        {nearlyFull && <li class="warn">{t.usageFull}</li>}
        <li>{t.usageFiles(now.files, now.objects)}</li>
        {mostFiles !== null && <li>{t.usageMostFiles(mostFiles)}</li>}
        <li>{t.usageStored(size(now.stored_bytes, t.locale))}</li>
        {now.reserved_bytes > 0 && <li>{t.usageReserved(size(now.reserved_bytes, t.locale))}</li>}
        {now.dedupe_saved_bytes > 0 && <li>{t.usageSaved(size(now.dedupe_saved_bytes, t.locale))}</li>}
        <li>{t.usageUpload(size(now.limits.max_upload_mb * 1024 * 1024, t.locale))}</li>
        <li>{t.usageSpeech(minutes(now.limits.max_transcription_minutes_per_day, t.locale))}</li>
      </ul>
    </details>
  );
}
