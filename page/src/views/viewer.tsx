import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import * as actions from "../actions.ts";
import { asked } from "../actions.ts";
import * as api from "../api.ts";
import type { FileInfo } from "../api.ts";
import * as files from "../files.ts";
import { clock, kindOf, moment, size } from "../format.ts";
import { openFile, place } from "../place.ts";
import { claims } from "../session.ts";
import { text } from "../text/index.ts";
import { isMine, openFileMenu, removed } from "./file_menu.ts";
import { Verdict } from "./files.tsx";
import { Icon } from "./icons.tsx";
import { Picture } from "./picture.tsx";
import { Player, type Playing } from "./player.tsx";
import { Thumb } from "./thumb.tsx";
import { Transcript, useTranscript } from "./transcript.tsx";

const TEXT_BYTES = 256 * 1024;
const PDF_BYTES = 64 * 1024 * 1024;

export function Viewer({ id, onClose }: { id: string; onClose: () => void }) {
  const t = text.value;
  const own = useSignal<FileInfo | null>(null);
  const isGone = useSignal<string | null>(null);
  const dialog = useRef<HTMLDivElement>(null);
  const playing: Playing = { seconds: useSignal(0), wanted: useSignal<number | null>(place.peek().at) };
  const listed = files.files.value.find((file) => file.media_id === id);
  const file = listed ?? own.value;
  const kind = file ? kindOf(file.mime_type) : null;
  const plays = kind === "audio" || kind === "video";
  const heard = useTranscript(file, plays);

  const all = files.shown.value;
  const index = all.findIndex((each) => each.media_id === id);
  const before = index > 0 ? all[index - 1] : undefined;
  const after = index >= 0 ? all[index + 1] : undefined;

  useEffect(() => {
    let timer = 0;
    const ask = (): void => {
      api.info(id)
        .then((found) => {
          own.value = found;
          if (found.scan_status === "pending") timer = window.setTimeout(ask, 2500);
        })
        .catch((error: Error) => (isGone.value = error.message));
    };
    if (!listed) ask();
    else own.value = listed;
    return () => clearTimeout(timer);
  }, [id]);

  useEffect(() => {
    const was = document.activeElement;
    dialog.current?.focus();
    return () => {
      setTimeout(() => {
        if (dialog.current?.isConnected || document.querySelector(".viewer")) return;
        const tile = document.querySelector<HTMLElement>(`[data-id="${id}"] .file-open`);
        (tile ?? (was instanceof HTMLElement && was.isConnected ? was : document.getElementById("content")))?.focus();
      });
    };
  }, []);

  useEffect(() => {
    const keys = (event: KeyboardEvent): void => {
      const target = event.target as HTMLElement;
      if (document.querySelector("dialog[open], .menu") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (target.closest("input, select, textarea")) return;
      const isRtl = document.documentElement.dir === "rtl";
      const isPlayer = target.closest("video, audio") !== null;
      if (event.key === "Escape") onClose();
      else if (event.key === (isRtl ? "ArrowRight" : "ArrowLeft") && !isPlayer && before) openFile(before.media_id, null, true);
      else if (event.key === (isRtl ? "ArrowLeft" : "ArrowRight") && !isPlayer && after) openFile(after.media_id, null, true);
      else if (event.key === "Delete" && file && isMine(file)) removed(file);
      else if (event.key === "F2" && file && isMine(file)) asked.value = { dialog: "rename", file };
      else if ((event.key === "m" || event.key === "M") && file) openFileMenu(dialog.current!.querySelector(".viewer-menu")!, file, true);
      else if (event.key === " " && plays && !target.closest("button, a, video, audio")) {
        const player = dialog.current!.querySelector<HTMLMediaElement>("video, audio");
        if (player?.paused) player.play().catch(() => {});
        else player?.pause();
      } else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", keys);
    return () => document.removeEventListener("keydown", keys);
  });

  const segments = heard.job?.segments ?? [];
  return (
    <div ref={dialog} class="viewer" role="dialog" aria-modal="true" aria-label={file?.filename ?? t.loading} tabIndex={-1}>
      <header class="viewer-head">
        <button class="plain" aria-label={t.close} title={t.close} onClick={onClose}><Icon name="close" /></button>
        <h2 dir="auto">{file?.filename ?? ""}</h2>
        {file && (
          <>
            <Verdict file={file} />
            <button class="plain" aria-label={t.download} title={t.download} onClick={() => void actions.download(file)}><Icon name="download" /></button>
            <button class="plain" aria-label={t.link} title={t.link} onClick={() => (asked.value = { dialog: "link", file })}><Icon name="link" /></button>
            <button class="plain viewer-menu" aria-haspopup="menu" aria-label={t.actions(file.filename)} onClick={(event) => openFileMenu(event.currentTarget, file, true)}><Icon name="more" /></button>
          </>
        )}
      </header>
      <div class="viewer-body">
        <div class={`stage ${kind ?? ""}`}>
          {isGone.value !== null && !file ? <div class="no-preview"><p role="alert">{isGone.value}</p><button onClick={onClose}>{t.close}</button></div>
            : file === null ? <p class="stage-said alone">{t.loading}</p>
            : kind === "image" ? <Picture file={file} />
            : plays ? <Player file={file} playing={playing} segments={segments} captions={heard.captions} language={heard.job?.language ?? "en"} />
            : <Document key={file.scan_status} file={file} />}
          {before && <button class="turn back" aria-label={t.previous} title={t.previous} onClick={() => openFile(before.media_id, null, true)}><Icon name="before" flips /></button>}
          {after && <button class="turn on" aria-label={t.next} title={t.next} onClick={() => openFile(after.media_id, null, true)}><Icon name="after" flips /></button>}
        </div>
        {file && (
          <aside class="about" aria-label={t.details}>
            {plays && <section><h3>{t.transcript}</h3><Transcript file={file} heard={heard} playing={playing} /></section>}
            <section><h3>{t.details}</h3><Details file={file} /></section>
          </aside>
        )}
      </div>
    </div>
  );
}

function Details({ file }: { file: FileInfo }) {
  const t = text.value;
  const uploader = file.uploaded_by === claims.value?.subject ? `${t.you} (${file.uploaded_by})` : file.uploaded_by;
  const rows: [string, preact.ComponentChildren][] = [
    [t.type, file.mime_type],
    [t.size, size(file.size, t.locale)],
    ...(file.width && file.height ? [[t.dimensions, `${file.width} × ${file.height}`] as [string, string]] : []),
    ...(file.duration != null ? [[t.duration, clock(file.duration)] as [string, string]] : []),
    [t.by, <span dir="auto">{uploader}</span>],
    [t.added, moment(file.created_at, t.locale)],
    [t.visible, file.tenant_scope ? t.everybody : t.uploaderAndRooms],
    [t.inRooms, (
      <span class="chips">
        {file.rooms.map((room) => (
          <span class="chip" key={room} dir="auto">{room}<button class="plain" aria-label={t.removeFromRoom(room)} title={t.removeFromRoom(room)} onClick={() => void actions.detach(file, room)}><Icon name="close" /></button></span>
        ))}
        <button class="quiet" aria-label={t.addToRoom} onClick={() => (asked.value = { dialog: "room", file })}><Icon name="plus" /><span aria-hidden="true">{t.add}</span></button>
      </span>
    )],
    ...(isMine(file) || file.labels ? [[t.labels, <Labels file={file} />] as [string, preact.ComponentChildren]] : []),
    [t.hash, <code title={file.sha256}>{file.sha256.slice(0, 16)}…</code>],
  ];
  return (
    <>
      <p class={`means ${file.scan_status}`}><Verdict file={file} /><span>{t.scanMeans[file.scan_status]}</span></p>
      <dl class="facts">{rows.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
    </>
  );
}

function Labels({ file }: { file: FileInfo }) {
  const t = text.value;
  return (
    <span class="chips">
      {Object.entries(file.labels ?? {}).map(([key, value]) => (
        <span class="chip" key={key}><span dir="auto">{value === "" ? key : `${key}: ${value}`}</span>
          {isMine(file) && <button class="plain" aria-label={t.removeLabel(key)} title={t.removeLabel(key)} onClick={() => {
            const { [key]: _, ...others } = file.labels ?? {};
            void actions.label(file, others);
          }}><Icon name="close" /></button>}</span>
      ))}
      {isMine(file) && <button class="quiet" aria-label={t.addLabel} onClick={() => (asked.value = { dialog: "label", file })}><Icon name="plus" /><span aria-hidden="true">{t.add}</span></button>}
    </span>
  );
}

const isText = (type: string): boolean => /^text\/|[/+](json|xml|yaml|javascript|x-sh|toml|sql|x-ndjson)\b/.test(type);

function Document({ file }: { file: FileInfo }) {
  const t = text.value;
  const shown = useSignal<{ text?: string; pdf?: string } | null>(null);
  const wrong = useSignal<string | null>(null);
  const isPdf = file.mime_type === "application/pdf";
  const isShown = isPdf ? file.size <= PDF_BYTES : isText(file.mime_type);
  useEffect(() => {
    if (!isShown) return;
    const wanted = new AbortController();
    let url = "";
    const got = isPdf
      ? api.whole(file.media_id, wanted.signal).then((blob) => {
          url = URL.createObjectURL(new Blob([blob], { type: "application/pdf" }));
          shown.value = { pdf: url };
        })
      : api.beginning(file.media_id, TEXT_BYTES, wanted.signal).then((found) => (shown.value = { text: found }));
    got.catch((error: Error) => {
      if (!wanted.signal.aborted) wrong.value = error.message;
    });
    return () => {
      wanted.abort();
      if (url) URL.revokeObjectURL(url);
    };
  }, [file.media_id]);
  if (wrong.value !== null) return <p class="stage-said alone" role="status">{wrong.value}</p>;
  if (!isShown) {
    return (
      <div class="no-preview"><Thumb file={file} pixels={120} /><p>{isPdf ? t.tooLarge : t.noPreview}</p>
        <button class="primary" onClick={() => void actions.download(file)}><Icon name="download" />{t.download}</button></div>
    );
  }
  if (shown.value === null) return <p class="stage-said alone" role="status">{t.loading}</p>;
  if (shown.value.pdf) return <iframe class="pdf" src={`${shown.value.pdf}#navpanes=0`} title={file.filename} />;
  return (
    <div class="text">
      {file.size > TEXT_BYTES && <p class="quiet-text">{t.cutText}</p>}
      <pre tabIndex={0} dir="auto" aria-label={file.filename} data-testid="text">{shown.value.text}</pre>
    </div>
  );
}
