import { effect, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { asked } from "../actions.ts";
import * as files from "../files.ts";
import { whenEnded } from "../jobs.ts";
import * as live from "../live.ts";
import { closeFile, openFile, place } from "../place.ts";
import { claims, current, hasEnded, settings } from "../session.ts";
import { text } from "../text/index.ts";
import { complain, say } from "../toasts.ts";
import * as spoken from "../spoken.ts";
import * as uploads from "../uploads.ts";
import { Dialogs } from "./dialogs.tsx";
import { Files, Picked } from "./files.tsx";
import { Header } from "./header.tsx";
import { Icon } from "./icons.tsx";
import { Jobs } from "./jobs.tsx";
import { OpenMenu } from "./menu.tsx";
import { Side } from "./side.tsx";
import { Offered, SignIn } from "./sign_in.tsx";
import { Toasts } from "./toasts.tsx";
import { Uploads } from "./uploads.tsx";
import { Viewer } from "./viewer.tsx";

export function App() {
  if (current.value === null) return <SignIn />;
  return (
    <>
      <SignedIn />
      {hasEnded.value && <SignIn />}
      <Offered />
    </>
  );
}

let isStarted = false;

function startOnce(): void {
  if (isStarted) return;
  isStarted = true;
  effect(() => {
    const { room } = place.value;
    const shown = files.view.peek().scope;
    if ((shown === "files" ? null : shown.room) !== room) files.show({ scope: room === null ? "files" : { room }, name: "", kind: null });
  });
  live.start((name, verdict, id) => {
    if (verdict !== "clean") uploads.judged(id, verdict);
    if (verdict === "infected") {
      say(text.value.wasInfected(name), { isProblem: true });
      if (place.value.file === id) closeFile();
    } else if (verdict === "unscannable") say(text.value.isUnscannable(name), { isProblem: true });
  });
  spoken.start();
  whenEnded((job) => {
    const id = job.media_id;
    const name = (id && files.find(id)?.filename) ?? text.value.soundName;
    if (job.status === "completed" && id) {
      say(text.value.transcribed(name), { action: { label: text.value.show, run: () => openFile(id) } });
    } else if (job.status === "failed" && job.error) complain(`${name}: ${job.error.detail}`);
  });
  void uploads.start((media, upload) => {
    live.awaitVerdict(media, upload.name);
    files.look(media).catch(complain);
    live.refreshUsage().catch(() => {});
  });
}

function SignedIn() {
  const isOver = useSignal(false);
  const depth = useRef(0);
  const { room, file, jobs } = place.value;
  const tenant = settings.value?.tenant || claims.value?.tenant || "";
  useEffect(startOnce, []);
  useEffect(() => {
    document.title = [room && text.value.room(room), text.value.filesOf(tenant)].filter(Boolean).join(" · ");
  });
  useEffect(() => {
    const carries = (event: DragEvent): boolean => event.dataTransfer?.types.includes("Files") ?? false;
    const listeners: [string, (event: never) => void][] = [
      ["dragenter", (event: DragEvent) => {
        if (!carries(event)) return;
        depth.current += 1;
        isOver.value = true;
      }],
      ["dragover", (event: DragEvent) => carries(event) && event.preventDefault()],
      ["dragleave", (event: DragEvent) => {
        if (carries(event) && (depth.current -= 1) <= 0) isOver.value = false;
      }],
      ["drop", (event: DragEvent) => {
        depth.current = 0;
        isOver.value = false;
        if (!event.dataTransfer || !carries(event)) return;
        event.preventDefault();
        void dropped(event.dataTransfer).then((found) => uploads.add(found, place.value.room));
      }],
      ["paste", (event: ClipboardEvent) => {
        const found = [...(event.clipboardData?.files ?? [])];
        if (found.length > 0) uploads.add(found.map(named), place.value.room);
      }],
      ["keydown", (event: KeyboardEvent) => {
        if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
        if (event.target instanceof HTMLElement && event.target.closest("input, textarea, select, [role=menu]")) return;
        if (event.key === "/") document.getElementById("search")?.focus();
        else if (event.key === "u" || event.key === "U") document.getElementById("choose")?.click();
        else if (event.key === "?") asked.value = { dialog: "keys" };
        else return;
        event.preventDefault();
      }],
    ];
    for (const [name, listener] of listeners) document.addEventListener(name, listener as EventListener);
    return () => {
      for (const [name, listener] of listeners) document.removeEventListener(name, listener as EventListener);
    };
  }, []);

  return (
    <div class="page">
      <div class="under" inert={file !== null}>
      <a class="skip" href="#content" onClick={(event) => {
        event.preventDefault();
        document.getElementById("content")?.focus();
      }}>{text.value.skip}</a>
      <Header tenant={tenant} />
      <div class="below">
        <Side />
        <main id="content" tabIndex={-1}>
          {!live.isConnected.value && !hasEnded.value && <p class="banner" role="status"><Icon name="warning" /> {text.value.offline}</p>}
          {jobs ? <Jobs /> : <Files />}
        </main>
      </div>
      </div>
      {isOver.value && <div class="drop" aria-hidden="true"><p><Icon name="upload" />{room === null ? text.value.dropHere : text.value.dropInRoom(room)}</p></div>}
      <aside class="corner" aria-label={text.value.notices}><Toasts /><Uploads />{!jobs && file === null && <Picked />}<OpenMenu /></aside>
      {file !== null && <Viewer key={file} id={file} onClose={closeFile} />}
      <Dialogs />
    </div>
  );
}

/** A pasted picture is called image.png by every browser; a time says more. */
function named(file: File): File {
  if (!/^image\.\w+$/.test(file.name)) return file;
  const moment = new Date().toISOString().slice(0, 19).replace("T", " ").replace(/:/g, ".");
  return new File([file], `${text.value.photoName} ${moment}.${file.name.split(".").pop()}`, { type: file.type });
}

/** The files that were dropped, those in folders too. */
async function dropped(transfer: DataTransfer): Promise<File[]> {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  if (!entries.some((entry) => entry?.isDirectory)) return [...transfer.files];
  const found: File[] = [];
  for (const entry of entries) if (entry) await walk(entry, found);
  return found;
}

/** What cannot be read is told, and keeps nothing else back. */
async function walk(entry: FileSystemEntry, found: File[]): Promise<void> {
  try {
    if (entry.isFile) {
      found.push(await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)));
      return;
    }
    const reader = (entry as FileSystemDirectoryEntry).createReader();
    for (;;) {
      const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
      if (some.length === 0) return;
      for (const each of some) await walk(each, found);
    }
  } catch {
    complain(text.value.unreadable(entry.name));
  }
}
