import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import * as actions from "../actions.ts";
import { asked } from "../actions.ts";
import * as api from "../api.ts";
import type { FileInfo } from "../api.ts";
import { text } from "../text/index.ts";
import { say } from "../toasts.ts";
import { Modal } from "./modal.tsx";
import { Record } from "./record.tsx";
import { openRoom, rooms } from "./side.tsx";

/** As the api takes them, but for blanks alone, and for `.` and `..`, which an address cannot have. */
const ROOM = "(?!\\s*\\.{0,2}\\s*$)[^\\/]{1,255}";

const LABEL = "[a-z0-9._\\-]{1,63}";

const close = (): void => {
  asked.value = null;
};

export function Dialogs() {
  const now = asked.value;
  if (now === null) return null;
  const { dialog, file } = now;
  if (dialog === "keys") return <Keys />;
  if (dialog === "record") return <Record onClose={close} />;
  if (dialog === "openRoom") return <Room title={text.value.openRoom} label={text.value.go} done={openRoom} />;
  if (dialog === "room" && now.files) return <Room title={text.value.roomTitle} label={text.value.add} done={(room) => void actions.attach(now.files!, room)} />;
  if (!file) return null;
  if (dialog === "rename") return <Rename file={file} />;
  if (dialog === "room") return <Room title={text.value.roomTitle} label={text.value.add} without={file.rooms} done={(room) => void actions.attach([file], room)} />;
  if (dialog === "label") return <Label file={file} />;
  if (dialog === "link") return <Link file={file} />;
  return <Transcribe file={file} />;
}

function Rename({ file }: { file: FileInfo }) {
  const t = text.value;
  const name = useSignal(file.filename);
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const dot = file.filename.lastIndexOf(".");
    input.current?.focus();
    input.current?.setSelectionRange(0, dot > 0 ? dot : file.filename.length);
  }, []);
  return (
    <Modal title={t.renameTitle} onClose={close}>
      <form onSubmit={(event) => {
        event.preventDefault();
        close();
        void actions.rename(file, name.value.trim());
      }}>
        <label>{t.newName}<input ref={input} dir="auto" required maxLength={255} value={name.value} onInput={(event) => (name.value = event.currentTarget.value)} /></label>
        <Buttons label={t.save} />
      </form>
    </Modal>
  );
}

function Room({ title, label, without = [], done }: { title: string; label: string; without?: string[]; done: (room: string) => void }) {
  const t = text.value;
  const room = useSignal("");
  return (
    <Modal title={title} onClose={close}>
      <form onSubmit={(event) => {
        event.preventDefault();
        close();
        done(room.value.trim());
      }}>
        <label>{t.roomName}<input autofocus required pattern={ROOM} list="rooms" autocomplete="off" spellcheck={false} value={room.value} aria-describedby="room-hint" onInput={(event) => {
          room.value = event.currentTarget.value;
          event.currentTarget.setCustomValidity("");
          if (event.currentTarget.validity.patternMismatch) event.currentTarget.setCustomValidity(t.roomWrong);
        }} /></label>
        <datalist id="rooms">{rooms().filter((each) => !without.includes(each)).map((each) => <option key={each} value={each} />)}</datalist>
        <p id="room-hint" class="quiet-text">{t.roomHint}</p>
        <Buttons label={label} />
      </form>
    </Modal>
  );
}

function Label({ file }: { file: FileInfo }) {
  const t = text.value;
  const key = useSignal("");
  const value = useSignal("");
  return (
    <Modal title={t.addLabel} onClose={close}>
      <form onSubmit={(event) => {
        event.preventDefault();
        close();
        void actions.label(file, { ...file.labels, [key.value]: value.value.trim() });
      }}>
        <label>{t.labelName}<input autofocus required pattern={LABEL} autocomplete="off" autocapitalize="none" spellcheck={false} value={key.value} aria-describedby="label-hint" onInput={(event) => {
          key.value = event.currentTarget.value;
          event.currentTarget.setCustomValidity("");
          if (event.currentTarget.validity.patternMismatch) event.currentTarget.setCustomValidity(t.labelHint);
        }} /></label>
        <p id="label-hint" class="quiet-text">{t.labelHint}</p>
        <label>{t.labelValue}<input dir="auto" autocomplete="off" maxLength={255} value={value.value} onInput={(event) => (value.value = event.currentTarget.value)} /></label>
        <Buttons label={t.add} />
      </form>
    </Modal>
  );
}

function Link({ file }: { file: FileInfo }) {
  const t = text.value;
  const signed = useSignal<{ url: string; expires_at: string } | null>(null);
  const wrong = useSignal("");
  useEffect(() => {
    api.sign(file.media_id).then((found) => (signed.value = found)).catch((error: Error) => (wrong.value = error.message));
  }, []);
  const { url, expires_at } = signed.value ?? { url: "", expires_at: "" };
  const time = expires_at && new Date(expires_at).toLocaleTimeString(t.locale, { timeStyle: "short" });
  return (
    <Modal title={t.linkTitle} onClose={close}>
      {wrong.value ? <p class="wrong" role="alert">{wrong.value}</p> : (
        <form onSubmit={(event) => {
          event.preventDefault();
          void copied(url).then(() => {
            close();
            say(t.copied);
          });
        }}>
          <p>{time ? t.linkText(time) : t.loading}</p>
          <label>{t.address}<input readOnly dir="ltr" value={url} onFocus={(event) => event.currentTarget.select()} /></label>
          <div class="buttons"><button type="button" onClick={close}>{t.close}</button><button class="primary" disabled={!url} autofocus>{t.copy}</button></div>
        </form>
      )}
    </Modal>
  );
}

/** Copies without the Clipboard API, which pages without TLS do not have. */
async function copied(url: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(url);
  } catch {
    document.querySelector<HTMLInputElement>("dialog[open] input[readonly]")?.select();
    document.execCommand("copy");
  }
}

function Transcribe({ file }: { file: FileInfo }) {
  const t = text.value;
  const language = useSignal("");
  return (
    <Modal title={t.transcribeTitle} onClose={close}>
      <form onSubmit={(event) => {
        event.preventDefault();
        close();
        void actions.transcribe(file, language.value);
      }}>
        <p><strong dir="auto">{file.filename}</strong></p>
        <p class="quiet-text">{t.transcribeText}</p>
        <label>{t.language}
          <select value={language.value} onChange={(event) => (language.value = event.currentTarget.value)}>
            <option value="">{t.detect}</option>
            {Object.entries(t.languages).map(([code, name]) => <option key={code} value={code}>{name}</option>)}
          </select>
        </label>
        <Buttons label={t.start} isFirst />
      </form>
    </Modal>
  );
}

function Keys() {
  const t = text.value;
  return (
    <Modal title={t.keysTitle} onClose={close}>
      <dl class="keys">{t.keysList.map(([key, what]) => <div key={key}><dt><kbd>{key}</kbd></dt><dd>{what}</dd></div>)}</dl>
    </Modal>
  );
}

/** `isFirst`: Enter does it at once, since nothing else has to be said. */
function Buttons({ label, isFirst = false }: { label: string; isFirst?: boolean }) {
  return <div class="buttons"><button type="button" onClick={close}>{text.value.cancel}</button><button class="primary" autofocus={isFirst}>{label}</button></div>;
}
