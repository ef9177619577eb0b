import * as actions from "../actions.ts";
import { asked } from "../actions.ts";
import type { FileInfo } from "../api.ts";
import * as files from "../files.ts";
import { kindOf } from "../format.ts";
import { closeFile, openFile, place } from "../place.ts";
import { claims } from "../session.ts";
import { text } from "../text/index.ts";
import { openMenu, type Item } from "./menu.tsx";

/** Whether the caller may change the file, as far as the page knows; the api decides. */
export function isMine(file: FileInfo): boolean {
  return files.isAdmin.value === true || !claims.value?.subject || claims.value.subject === file.uploaded_by;
}

export function itemsFor(file: FileInfo, isOpen: boolean): Item[] {
  const t = text.value;
  const kind = kindOf(file.mime_type);
  const items: (Item | false)[] = [
    !isOpen && { label: t.open, icon: "eye", run: () => openFile(file.media_id) },
    !isOpen && { label: t.download, icon: "download", run: () => void actions.download(file) },
    { label: t.link, icon: "link", run: () => (asked.value = { dialog: "link", file }) },
    !isOpen && {
      label: files.selected.value.has(file.media_id) ? t.unselect : t.select, icon: "tick",
      run: () => files.select([file.media_id], !files.selected.value.has(file.media_id)),
    },
    isMine(file) && { label: t.rename, icon: "pen", run: () => (asked.value = { dialog: "rename", file }) },
    isMine(file) && { label: t.addLabel, icon: "tag", run: () => (asked.value = { dialog: "label", file }) },
    { label: t.addToRoom, icon: "room", run: () => (asked.value = { dialog: "room", file }) },
    ...file.rooms.map((room): Item => ({ label: t.removeFromRoom(room), icon: "minus", run: () => void actions.detach(file, room) })),
    (kind === "audio" || kind === "video") && { label: t.transcribe, icon: "words", run: () => (asked.value = { dialog: "transcribe", file }) },
    isMine(file) && {
      label: file.tenant_scope ? t.makeHidden : t.makeVisible, icon: "person", run: () => void actions.showTo(file, !file.tenant_scope),
    },
    files.isAdmin.value === true && { label: t.scanAgain, icon: "shield", run: () => void actions.scanAgain(file) },
    isMine(file) && { label: t.remove, icon: "bin", isDanger: true, run: () => removed(file) },
  ];
  return items.filter((item) => item !== false);
}

export function removed(file: FileInfo): void {
  if (place.value.file === file.media_id) closeFile();
  actions.remove([file]);
}

export function openFileMenu(from: HTMLElement, file: FileInfo, isOpen = false): void {
  openMenu(from, text.value.actions(file.filename), itemsFor(file, isOpen));
}
