/** The files as a grid or a list. Only rows in sight are in the document, so that 10,000 files scroll like 100. */
import { signal, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { asked, remove } from "../actions.ts";
import type { FileInfo } from "../api.ts";
import * as files from "../files.ts";
import { ago, clock, moment, size, typeName, type Kind } from "../format.ts";
import type { Sort } from "../listing.ts";
import { openFile } from "../place.ts";
import { fragmentOf } from "../route.ts";
import { claims } from "../session.ts";
import * as spoken from "../spoken.ts";
import { text } from "../text/index.ts";
import { columnsIn, moved, window as inSight } from "../virtual.ts";
import { isMine, openFileMenu, removed } from "./file_menu.ts";
import { Icon, type IconName } from "./icons.tsx";
import { Thumb } from "./thumb.tsx";

const KEPT = "media-layout";
const layout = signal<"grid" | "list">(localStorage.getItem(KEPT) === "list" ? "list" : "grid");

/** How much larger letters are here than by default: people set it in the browser. */
const lettering = (): number => parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
/** The least width of a tile, by the width of the grid, both at the usual size of letters. */
const leastTile = (width: number): number => (width < 420 ? 128 : width < 2000 ? 176 : 240);
const GAP = 12;
const TILE_TEXT = 58;
const ROW = 56;
const EXTRA_ROWS = 3;
/** Rows before the end at which the next page is asked for. */
const AHEAD = 12;

export const verdictIcons: Record<FileInfo["scan_status"], IconName> = {
  pending: "clock", clean: "check", infected: "warning", unscannable: "warning", error: "warning",
};

export function Files() {
  const t = text.value;
  const { scope, kind, sort } = files.view.value;
  const all = files.shown.value;
  const title = scope === "files" ? (files.isAdmin.value ? t.everything : t.mine) : scope.room;
  const canSort = scope === "files" || files.isAdmin.value;
  const kinds: (Kind | null)[] = [null, "image", "video", "audio", "document"];
  return (
    <>
      <div class="toolbar">
        <h2 dir="auto">{title}</h2>
        <p class="quiet-text" role="status">{files.files.value.length > 0 ? t.shown(all.length, !files.isComplete.value) : ""}</p>
        <div class="segments kinds" role="group" aria-label={t.kinds}>
          {kinds.map((each) => (
            <button key={each} aria-pressed={kind === each} onClick={() => files.show({ kind: each })}>{t.kind[each ?? "all"]}</button>
          ))}
        </div>
        <div class="tools">
          {canSort && (
            <select aria-label={t.sortedBy} value={sort} onChange={(event) => files.show({ sort: event.currentTarget.value as Sort })}>
              {Object.entries(t.sort).map(([value, label]) => <option key={value} value={value}>{label}</option>)}
            </select>
          )}
          <div class="segments" role="group" aria-label={t.layout}>
            {(["grid", "list"] as const).map((each) => (
              <button key={each} aria-pressed={layout.value === each} aria-label={t[each]} title={t[each]} onClick={() => {
                layout.value = each;
                localStorage.setItem(KEPT, each);
              }}><Icon name={each} /></button>
            ))}
          </div>
        </div>
      </div>
      <Said />
      {files.failure.value !== null && all.length === 0
        ? <div class="empty" role="alert"><span class="empty-mark"><Icon name="warning" /></span><h3>{t.listFailed}</h3><p>{files.failure.value}</p>
            <button onClick={() => void files.again()}>{t.retry}</button></div>
        : all.length === 0 && files.isComplete.value ? spoken.hits.value.length === 0 && <Empty /> : <Scroller key={layout.value} all={all} />}
    </>
  );
}

/** Where the words that are searched for are said. */
function Said() {
  const t = text.value;
  const hits = spoken.hits.value;
  if (hits.length === 0) return null;
  return (
    <section class="said-hits" aria-label={t.said}>
      <h3><Icon name="words" />{t.said}</h3>
      <ul>
        {hits.map((hit) => (
          <li key={`${hit.media_id} ${hit.start}`}>
            <a href={fragmentOf({ file: hit.media_id, at: hit.start })} onClick={(event) => {
              if (event.ctrlKey || event.metaKey || event.shiftKey) return;
              event.preventDefault();
              openFile(hit.media_id, hit.start);
            }}>
              <span class="hit-text" dir="auto">{hit.snippet.map((part, index) => (part.marked ? <mark key={index}>{part.text}</mark> : part.text))}</span>
              <span class="quiet-text"><bdi>{hit.filename}</bdi> · {clock(hit.start)}</span>
            </a>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** What can be done with all files that are selected. */
export function Picked() {
  const t = text.value;
  const picked = files.picked.value;
  if (picked.length === 0) return null;
  const back = (): void => document.querySelector<HTMLElement>(".files .file-open[tabindex='0']")?.focus();
  return (
    <section class="picked" aria-label={t.selection}>
      <p role="status">{t.selected(picked.length)}</p>
      <button onClick={() => (asked.value = { dialog: "room", files: picked })}><Icon name="room" />{t.addToRoom}</button>
      {picked.every(isMine) && <button class="danger" onClick={() => {
        remove(picked);
        setTimeout(back);
      }}><Icon name="bin" />{t.remove}</button>}
      <button class="plain" aria-label={t.selectNone} title={t.selectNone} onClick={() => {
        files.selected.value = new Set();
        setTimeout(back);
      }}><Icon name="close" /></button>
    </section>
  );
}

function Empty() {
  const t = text.value;
  const { scope, name, kind } = files.view.value;
  const isFiltered = name !== "" || kind !== null;
  return (
    <div class="empty">
      <span class="empty-mark"><Icon name={isFiltered ? "search" : "upload"} /></span>
      <h3>{isFiltered ? t.nothingTitle : scope === "files" ? t.emptyTitle : t.emptyRoomTitle}</h3>
      <p>{isFiltered ? t.nothingText : scope === "files" ? t.emptyText : t.emptyRoomText}</p>
      {isFiltered ? <button onClick={() => files.show({ name: "", kind: null })}>{t.clear}</button>
        : <button class="primary" onClick={() => document.getElementById("choose")?.click()}><Icon name="upload" />{t.choose}</button>}
    </div>
  );
}

function Scroller({ all }: { all: FileInfo[] }) {
  const t = text.value;
  const isGrid = layout.value === "grid";
  const box = useRef<HTMLDivElement>(null);
  const width = useSignal(0);
  const height = useSignal(0);
  const top = useSignal(0);
  const letters = useSignal(lettering());
  /** The file that Tab leads to, and its place: it keeps the focus when the order changes; when it goes, its place does. */
  const current = useSignal({ id: "", index: 0 });
  const wantsFocus = useRef(false);
  const lastPicked = useRef("");

  useLayoutEffect(() => {
    const element = box.current!;
    const measure = (): void => {
      const style = getComputedStyle(element);
      width.value = element.clientWidth - parseFloat(style.paddingInlineStart) - parseFloat(style.paddingInlineEnd);
      height.value = element.clientHeight;
      letters.value = lettering();
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, []);

  const much = letters.value;
  const columns = isGrid ? columnsIn(width.value, leastTile(width.value / much) * much, GAP) : 1;
  const tile = isGrid ? Math.floor((width.value - GAP * (columns - 1)) / columns) : 40;
  const row = isGrid ? Math.round(tile * 0.75 + TILE_TEXT * much) + GAP : Math.round(ROW * much);
  const rows = Math.ceil(all.length / columns);
  // The step keeps renders few: a row's worth of scrolling changes nothing.
  const step = Math.floor(top.value / row) * row;
  const { first, last } = inSight({ columns, row, rows }, step, height.value + row, EXTRA_ROWS);
  const isNearEnd = last >= all.length - AHEAD * columns;

  useEffect(() => {
    if (isNearEnd) void files.more();
  }, [isNearEnd, all.length]);

  const known = all.findIndex((file) => file.media_id === current.value.id);
  const focused = known >= 0 ? known : Math.min(current.value.index, all.length - 1);

  // An element that is moved or removed loses the focus.
  const hadFocus = box.current?.contains(document.activeElement) ?? false;

  // Before the next event, so that a key that comes at once counts from here.
  useLayoutEffect(() => {
    if (!wantsFocus.current && !(hadFocus && document.activeElement === document.body)) return;
    wantsFocus.current = false;
    box.current?.querySelector<HTMLElement>(`[data-index="${focused}"] .file-open`)?.focus({ preventScroll: true });
  });

  /** Selects a file or no longer. `isRange`: with all since the last one. */
  const toggle = (index: number, isRange: boolean): void => {
    const isSelected = !files.selected.value.has(all[index]!.media_id);
    const from = all.findIndex((each) => each.media_id === lastPicked.current);
    const [low, high] = isRange && from >= 0 ? [Math.min(from, index), Math.max(from, index)] : [index, index];
    files.select(all.slice(low, high + 1).map((each) => each.media_id), isRange || isSelected);
    lastPicked.current = all[index]!.media_id;
  };

  const onKeyDown = (event: KeyboardEvent): void => {
    const target = event.target as HTMLElement;
    const index = Number(target.closest<HTMLElement>("[data-index]")?.dataset.index ?? NaN);
    const file = all[index];
    if (file && event.key === "a" && (event.ctrlKey || event.metaKey)) {
      files.select(all.map((each) => each.media_id), true);
      event.preventDefault();
    }
    if (!file || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(height.value / row) - 1);
    const isRtl = getComputedStyle(box.current!).direction === "rtl";
    if (/^(Arrow|Page|Home|End)/.test(event.key)) {
      const to = moved(event.key, index, all.length, columns, page, isRtl);
      current.value = { id: all[to]!.media_id, index: to };
      wantsFocus.current = true;
      const at = Math.floor(to / columns) * row;
      const element = box.current!;
      if (at < element.scrollTop) element.scrollTop = at;
      else if (at + row > element.scrollTop + height.value - 24) element.scrollTop = at + row - height.value + 24;
      top.value = element.scrollTop;
    } else if (event.key === "Delete" && isMine(file)) {
      current.value = { id: all[index + 1]?.media_id ?? "", index: Math.min(index, all.length - 2) };
      wantsFocus.current = true;
      removed(file);
    } else if (event.key === " " && target.matches(".file-open")) toggle(index, event.shiftKey);
    else if (event.key === "Escape" && files.selected.value.size > 0) files.selected.value = new Set();
    else if (event.key === "F2" && isMine(file)) asked.value = { dialog: "rename", file };
    else if (event.key === "m" || event.key === "M" || event.key === "ContextMenu") openFileMenu(target.closest("[data-index]")!.querySelector(".file-menu")!, file);
    else return;
    event.preventDefault();
  };

  const indices: number[] = [];
  for (let index = first; index < Math.min(last, all.length); index += 1) indices.push(index);
  if (focused >= 0 && (focused < first || focused >= last)) indices.push(focused); // what has the focus stays
  return (
    <div ref={box} class={`scroll files ${isGrid ? "grid" : "list"}${files.selected.value.size > 0 ? " picking" : ""}`} onScroll={(event) => (top.value = event.currentTarget.scrollTop)} onKeyDown={onKeyDown}
      aria-busy={files.isLoading.value} data-testid="files-box">
      {!isGrid && (
        <div class="list-head" aria-hidden="true"><span /><span>{t.name}</span><span class="at-700">{t.verdict}</span><span class="at-900">{t.type}</span><span class="end at-500">{t.size}</span><span class="at-900">{t.by}</span><span class="at-500">{t.added}</span><span /></div>
      )}
      <ul class="rows" style={{ blockSize: `${Math.max(0, rows * row - (isGrid ? GAP : 0))}px` }} aria-label={t.files}>
        {indices.map((index) => {
          const file = all[index]!;
          const column = index % columns;
          const style = {
            transform: `translateY(${Math.floor(index / columns) * row}px)`,
            insetInlineStart: `${column * (tile + GAP)}px`,
            ...(isGrid ? { inlineSize: `${tile}px`, blockSize: `${row - GAP}px` } : { blockSize: `${row}px` }),
          };
          const isFocusable = index === Math.max(0, focused);
          const isPicked = files.selected.value.has(file.media_id);
          const shared = { file, index, isPicked, pick: (isRange: boolean) => toggle(index, isRange), tab: isFocusable ? 0 : -1, onFocus: () => (current.value = { id: file.media_id, index }) };
          return (
            <li key={file.media_id} class={isGrid ? "tile" : "row"} data-index={index} data-id={file.media_id} data-status={file.scan_status} data-picked={isPicked || undefined} style={style}
              aria-setsize={files.isComplete.value ? all.length : -1} aria-posinset={index + 1}>
              {isGrid ? <Tile {...shared} pixels={tile} /> : <Row {...shared} />}
            </li>
          );
        })}
      </ul>
      {files.isLoading.value && <p class="loading" role="status">{t.loading}</p>}
      {files.failure.value !== null && <p class="loading" role="alert">{files.failure.value} <button onClick={() => void files.again()}>{t.retry}</button></p>}
    </div>
  );
}

interface One {
  file: FileInfo;
  index: number;
  tab: number;
  isPicked: boolean;
  pick: (isRange: boolean) => void;
  onFocus: () => void;
}

function Pick({ file, isPicked, pick }: One) {
  return (
    <button class="pick" role="checkbox" aria-checked={isPicked} tabIndex={-1} aria-label={text.value.selectOne(file.filename)} title={text.value.select}
      onClick={(event) => pick(event.shiftKey)}>{isPicked && <Icon name="tick" />}</button>
  );
}

function Name({ file, tab, onFocus, pick }: One) {
  return (
    <a class="file-open" href={`#/files/${file.media_id}`} tabIndex={tab} onFocus={onFocus} onClick={(event) => {
      if (event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      if (event.shiftKey) pick(true);
      else openFile(file.media_id);
    }}>
      <span class="file-name" dir="auto" title={file.filename}>{file.filename}</span>
    </a>
  );
}

function Menu({ file, tab, onFocus }: One) {
  return (
    <button class="plain file-menu" tabIndex={tab} aria-haspopup="menu" aria-label={text.value.actions(file.filename)} onFocus={onFocus}
      onClick={(event) => openFileMenu(event.currentTarget, file)}><Icon name="more" /></button>
  );
}

export function Verdict({ file, isShort = false }: { file: FileInfo; isShort?: boolean }) {
  const t = text.value;
  const { scan_status: status } = file;
  return (
    <span class={`verdict ${status}`} title={t.scanMeans[status]}>
      <Icon name={verdictIcons[status]} /><span>{isShort ? t.scanShort[status] : t.scan[status]}</span>
    </span>
  );
}

const who = (file: FileInfo): string => (file.uploaded_by === claims.value?.subject ? text.value.you : file.uploaded_by);

function Tile(one: One & { pixels: number }) {
  const { file, pixels } = one;
  const t = text.value;
  return (
    <>
      <Thumb file={file} pixels={pixels} />
      <Name {...one} />
      <p class="tile-said">{file.scan_status === "clean"
        ? <><span>{size(file.size, t.locale)}</span><span class="dot">·</span><span title={moment(file.created_at, t.locale)}>{ago(file.created_at, Date.now(), t.locale)}</span></>
        : <Verdict file={file} isShort />}<span class="unseen">{t.scan[file.scan_status]}, {typeName(file.mime_type, file.filename)}, {who(file)}</span></p>
      <Menu {...one} />
      <Pick {...one} />
    </>
  );
}

function Row(one: One) {
  const { file } = one;
  const t = text.value;
  return (
    <>
      <Thumb file={file} pixels={40} />
      <Name {...one} />
      <span class="at-700"><Verdict file={file} isShort /></span>
      <span class="at-900 quiet-text">{typeName(file.mime_type, file.filename)}</span>
      <span class="end at-500 quiet-text">{size(file.size, t.locale)}</span>
      <span class="at-900 quiet-text" dir="auto">{who(file)}</span>
      <span class="at-500 quiet-text" title={moment(file.created_at, t.locale)}>{ago(file.created_at, Date.now(), t.locale)}</span>
      <Menu {...one} />
      <Pick {...one} />
    </>
  );
}

